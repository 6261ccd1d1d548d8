"""What methods make of optimisers of other kinds: restarted ones, several at once, line searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.methods.by_hand import ByHand, preset
from tests.methods.workbench import BATCHES, SPARSITY, TOTAL_STEPS, Network, Run, short

from itop import SparseEngine
from itop.methods import METHODS
from itop.methods.hidden_weights import HiddenWeights

KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "nadam": (torch.optim.NAdam, {}),
    "adagrad": (torch.optim.Adagrad, {"initial_accumulator_value": 0.5}),
    "rprop": (torch.optim.Rprop, {}),
    "asgd": (torch.optim.ASGD, {}),
    "adamax": (torch.optim.Adamax, {}),
    "rmsprop": (torch.optim.RMSprop, {"centered": True, "momentum": 0.5}),
}
"""Those whose state does not begin at zero among them: products, sums, step sizes."""

START = [[4.0, 3.0, 2.0, 1.0]]
TICKET = [[4.0, 3.0, 0.0, 0.0]]
GRADIENTS = [[[0.5, -1.0, 0.0, 0.0]], [[0.5, 1.0, 0.0, 0.0]], [[-0.25, 2.0, 0.0, 0.0]]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rewound_network_goes_on_as_one_that_begins(kind: str) -> None:
    optimizer, settings = KINDS[kind]
    run = ByHand(preset("imp", rounds=1), START, lr=0.01, optimizer=optimizer, settings=settings)
    for gradients in [[[1.0, -1.0, 0.1, 0.1]]] * 5 + GRADIENTS:
        run.step(gradients)
    assert run.active() == [[1, 1, 0, 0]]
    weight = torch.nn.Parameter(torch.tensor(TICKET))
    fresh = optimizer([weight], lr=0.01, **settings)
    for gradients in GRADIENTS:
        weight.grad = torch.tensor(gradients)
        fresh.step()
    assert torch.equal(run.weights()[0, :2], weight.detach()[0, :2])


class Halved:
    """A training of the network with an optimiser for its convolutions and another for the rest, or one for both."""

    def __init__(self, name: str, parts: int) -> None:
        torch.manual_seed(0)
        self.model = Network()
        parameters = list(self.model.parameters())
        groups = [parameters[:8], parameters[8:]] if parts == 2 else [parameters]
        self.optimizers = [torch.optim.SGD(group, lr=0.05, momentum=0.9, weight_decay=5e-4) for group in groups]
        self.engine = SparseEngine(
            self.model,
            self.optimizers if parts == 2 else self.optimizers[0],
            short(name),
            sparsity=SPARSITY,
            total_steps=TOTAL_STEPS,
            batches=BATCHES,
        )

    def train(self) -> list[float]:
        losses = []
        for step in range(TOTAL_STEPS):
            images, labels = BATCHES[step % len(BATCHES)]
            loss = F.cross_entropy(self.model(images), labels)
            self.model.zero_grad()
            loss.backward()
            for optimizer in self.optimizers:
                optimizer.step()
            losses.append(loss.item())
        return losses


def after_the_step(name: str) -> bool:
    """Whether an update follows the step, as it always does with several optimisers."""
    from itop.methods import UpdateTiming

    return METHODS[name]().timing is UpdateTiming.AFTER_STEP


@pytest.mark.parametrize("name", [name for name in METHODS if after_the_step(name)])
def test_two_optimisers_train_as_one_does(name: str) -> None:
    one, two = Halved(name, 1), Halved(name, 2)
    assert one.train() == two.train()
    assert one.engine.topology.digest() == two.engine.topology.digest()
    for mine, theirs in zip(one.model.parameters(), two.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


HIDING = [name for name in METHODS if isinstance(METHODS[name](), HiddenWeights)]


@pytest.mark.parametrize("name", HIDING)
def test_hidden_weights_refuse_an_optimiser_that_evaluates_repeatedly(name: str) -> None:
    model = Network()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = torch.optim.LBFGS(model.parameters())
    with pytest.raises(ValueError, match=f"^method '{name}' exchanges the weights around each step, .* of LBFGS"):
        SparseEngine(model, optimizer, short(name), sparsity=SPARSITY, total_steps=TOTAL_STEPS)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def closure_of(run: Run) -> Callable[[], torch.Tensor]:
    images, labels = BATCHES[run.engine.steps % len(BATCHES)]

    def closure() -> torch.Tensor:
        run.optimizer.zero_grad()
        loss = F.cross_entropy(run.model(images), labels)
        loss.backward()
        return loss

    return closure


@pytest.mark.parametrize("name", HIDING)
def test_hidden_weights_follow_a_closure(name: str) -> None:
    plain, closed = Run(name).train(12), Run(name)
    for _ in range(12):
        closed.optimizer.step(closure_of(closed))
    for mine, theirs in zip(plain.model.parameters(), closed.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)
