"""Optimisers as other people write them: every weight's step depends on all of its layer, or their state is odd."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def with_gradients(group: dict[str, Any]) -> list[Any]:
    """As every optimiser of torch: a parameter without gradient is passed over."""
    return [p for p in group["params"] if p.grad is not None]


class Lars(Optimizer):
    """Layer-wise rates from norms: every weight's step depends on all others of its layer."""

    def __init__(self, params: Iterable[Tensor], lr: float = 1.0) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in with_gradients(group):
                rate = group["lr"] * 0.01 * p.norm() / (p.grad.norm() + 1e-8)
                buffer = self.state[p].setdefault("velocity", torch.zeros_like(p))
                buffer.mul_(0.9).add_(p.grad + 1e-4 * p, alpha=float(rate))
                p.sub_(buffer)


class Shampoo(Optimizer):
    """Preconditions rows and columns: zero gradients do not stay zero."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.05) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in with_gradients(group):
                if p.dim() < 2:
                    p.sub_(p.grad, alpha=group["lr"])
                    continue
                state = self.state[p]
                if not state:
                    state["left"], state["right"] = torch.eye(p.size(0)) * 1e-2, torch.eye(p.size(1)) * 1e-2
                    state["average"] = [{"of steps": torch.zeros_like(p)}]  # the weight's shape, hidden away
                state["left"] += p.grad @ p.grad.T
                state["right"] += p.grad.T @ p.grad
                roots = [torch.linalg.eigh(side) for side in (state["left"], state["right"])]
                left, right = (v @ torch.diag(e.clamp_min(1e-6) ** -0.25) @ v.T for e, v in roots)
                step = left @ p.grad @ right
                state["average"][0]["of steps"].mul_(0.9).add_(step)
                p.sub_(step, alpha=group["lr"])


class ScheduleFree(Optimizer):
    """The weights are an interpolation of two sequences kept as state; between steps they may be switched."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.1, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            group["k"] += 1
            for p in with_gradients(group):
                z = self.state[p].setdefault("z", p.detach().clone())
                average = self.state[p].setdefault("x", p.detach().clone())
                z.sub_(p.grad, alpha=group["lr"])
                average.lerp_(z, 1.0 / group["k"])
                p.copy_(z.lerp(average, group["beta"]))


class Lookahead(Optimizer):
    """Wraps another optimiser, whose state it leaves there; every second step weights go half of the way back."""

    def __init__(self, inner: Optimizer) -> None:
        super().__init__(inner.param_groups, {})
        self.inner = inner
        self.num_steps = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        self.inner.step()
        self.num_steps += 1
        for group in self.param_groups:
            for p in with_gradients(group) if self.num_steps % 2 == 0 else ():
                slow = self.state[p].setdefault("slow", p.clone())
                slow.add_(p - slow, alpha=0.5)
                p.copy_(slow)
