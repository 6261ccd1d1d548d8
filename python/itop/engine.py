"""``SparseEngine``: attaches dynamic sparse training to any model, optimiser and training loop."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from itop import _core
from itop.allocation import AllocationLike, LayerShape, as_allocation, target_count
from itop.context import Context, TrainingData
from itop.example_input import ExampleInput, record_example
from itop.layers import Layer, Rules, find_layers, unwrap
from itop.methods import Method, UpdateTiming, as_method
from itop.optim import MaskedOptimizer
from itop.optimizer_state import OptimizerState
from itop.topology import Topology, UpdateReport

STATE_VERSION = 1


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs of one sample, 2 for each multiply-add; normalisation, activations and mask updates do not count.

    Attributes:
        forward: Of a forward pass at the present density.
        forward_dense: Of a forward pass with every weight.
        training: Of a training step, by the method's own account (PAPER section 4), at the densities of the layers
            averaged over the steps so far; at the present ones before the first step.
    """

    forward: float
    forward_dense: float
    training: float

    @property
    def training_dense(self) -> float:
        """Of a dense training step: three forward passes."""
        return 3.0 * self.forward_dense

    @property
    def forward_factor(self) -> float:
        """Inference against dense."""
        return self.forward / self.forward_dense

    @property
    def training_factor(self) -> float:
        """Training against dense."""
        return self.training / self.training_dense


@dataclass(frozen=True, slots=True)
class LayerState:
    """A layer's topology at the moment of asking; counts of weights."""

    name: str
    shape: tuple[int, ...]
    num_active: int
    num_explored: int
    num_reliable: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def density(self) -> float:
        return self.num_active / self.numel

    @property
    def sparsity(self) -> float:
        return 1.0 - self.density

    @property
    def exploration_rate(self) -> float:
        return self.num_explored / self.numel

    @property
    def reliable_rate(self) -> float:
        return self.num_reliable / self.numel


class SparseEngine:
    """Keeps a model sparse while it trains, and changes which weights are active by a method.

    The engine hooks ``optimizer.step()``; the training loop stays as it was. After every step inactive weights and all
    optimiser state of their shape are exactly zero, and the number of active weights is exact.

    Args:
        model: Any module; wrappers of ``torch.compile`` and data parallelism are looked through.
        optimizer: Any ``torch.optim.Optimizer`` over the model's parameters.
        method: A preset's name (``itop.methods.METHODS``) or a ``Method`` value.
        sparsity: Of all sparsifiable weights together, in [0, 1). Ignored by dense training.
        allocation: "erk", "er", "uniform", an ``Allocation`` or ``{layer name: sparsity}``. None: the method's.
        total_steps: Optimiser steps of the run: the horizon of schedules. Required by methods that need one.
        include: Globs, module types or callables that name the layers; None: every Linear, Conv1d-3d, attention
            projection and recurrent weight.
        exclude: Layers to leave dense, in the same forms.
        seed: Of every random choice; the same on every rank.
        attach: False leaves the hooks out; the loop then calls :meth:`step` after ``optimizer.step()``.
        batches: Training batches (inputs, targets) on the model's device: something that can be iterated anew, or a
            callable that starts anew. Asked for by methods that choose masks by the loss before training.
        loss: ``loss(outputs, targets)`` of those batches, a scalar.

    Raises:
        ValueError: If an argument does not fit; nothing has been changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: str | Method = "set-itop",
        *,
        sparsity: float = 0.9,
        allocation: AllocationLike | None = None,
        total_steps: int | None = None,
        include: Rules = None,
        exclude: Rules = (),
        seed: int = 0,
        attach: bool = True,
        batches: Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]] | None = None,
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    ) -> None:
        self._check_arguments(model, optimizer, total_steps, seed)
        target_count(1, sparsity)  # says what is wrong with it before anything else is asked
        self.method = as_method(method).for_sparsity(sparsity)
        if self.method.needs_total_steps and total_steps is None:
            raise ValueError(
                f"method '{self.method.name}' needs total_steps, the number of optimiser steps of the run: its schedule "
                "depends on it"
            )
        if self.method.acts_before_step and not attach:
            raise ValueError(
                f"method '{self.method.name}' acts before each optimiser step and needs the engine's hooks: attach=True"
            )
        layers = find_layers(model, include, exclude)
        shapes = [LayerShape(layer.name, layer.shape) for layer in layers]
        chosen = as_allocation(self.method.default_allocation if allocation is None else allocation)
        counts = [shape.numel for shape in shapes] if self.method.is_dense else chosen.counts(shapes, sparsity)
        state = OptimizerState(optimizer, layers)
        self._check_finite(layers)
        self._check_no_other_engine(optimizer, layers)

        self.optimizer = optimizer
        self.topology = Topology(layers, state, seed)
        data = None if batches is None else TrainingData(_starting_anew(batches), loss)
        self._context = Context(self.topology, unwrap(model), optimizer, counts, total_steps, chosen, data)
        self.method.check(self._context)
        self._active_step_sums = np.zeros(len(layers), dtype=np.int64)
        self._callbacks: list[Callable[[UpdateReport], object]] = []
        self._handles: list[RemovableHandle] = []
        self._last_update: UpdateReport | None = None
        self._skips_step = False
        self._updated_before_step = False
        self._masks_gradients = False
        self._needs_full_mask = True
        self._signature = (0, 0)
        self._parameters = [layer.parameter for layer in layers]
        self._versions: list[int] = []
        self._withheld: list[tuple[nn.Parameter, Tensor]] = []
        self._masked_gradient: tuple[weakref.ref[Tensor], int] | None = None
        self._attached = attach
        self._example: ExampleInput | None = None
        self.method.initialise(self._context)
        if isinstance(optimizer, MaskedOptimizer):
            optimizer.attach_topology(self.topology)
        self._handles_of_example = record_example(model, self._keep_example)
        self._handles_of_method = list(self.method.hooks(self._context))
        self._remember()
        if attach:
            self._handles = [
                optimizer.register_step_pre_hook(self._before_step),
                optimizer.register_step_post_hook(self._after_step),
            ]
            if hasattr(optimizer, "register_load_state_dict_post_hook"):
                self._handles.append(optimizer.register_load_state_dict_post_hook(self._mark_foreign_change))

    @staticmethod
    def _check_arguments(model: object, optimizer: object, total_steps: object, seed: object) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}")
        if total_steps is not None and (
            isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1
        ):
            raise ValueError(f"total_steps must be a whole number, at least 1, got {total_steps!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be a whole number in [0, 2^64), got {seed!r}")

    @staticmethod
    def _check_finite(layers: Sequence[Layer]) -> None:
        for layer in layers:
            if not torch.isfinite(layer.parameter.detach()).all():
                raise ValueError(f"the weights of layer '{layer.name}' hold NaN or infinity")

    @staticmethod
    def _check_no_other_engine(optimizer: Optimizer, layers: Sequence[Layer]) -> None:
        mine = {id(layer.parameter) for layer in layers}
        for hook in optimizer._optimizer_step_pre_hooks.values():
            other = getattr(hook, "__self__", None)
            if not isinstance(other, SparseEngine):
                continue
            shared = [layer.name for layer in other.topology.layers if id(layer.parameter) in mine]
            if shared or isinstance(optimizer, MaskedOptimizer):
                raise ValueError(
                    f"the optimiser already has a SparseEngine, for {', '.join(shared) or 'other layers'}; call its "
                    "detach() first"
                )

    # --- what there is to know ----------------------------------------------------------------------------------------

    @property
    def layers(self) -> tuple[LayerState, ...]:
        """Every sparse layer: name, shape, counts, density, exploration rate, reliable rate."""
        return tuple(
            LayerState(layer.name, layer.shape, active, explored, reliable)
            for layer, active, explored, reliable in zip(
                self.topology.layers,
                self.topology.num_active,
                self.topology.num_explored,
                self.topology.num_reliable,
                strict=True,
            )
        )

    @property
    def _numel(self) -> int:
        return sum(layer.numel for layer in self.topology.layers)

    @property
    def density(self) -> float:
        """Active weights / sparsifiable weights."""
        return sum(self.topology.num_active) / self._numel

    @property
    def sparsity(self) -> float:
        """1 - density."""
        return 1.0 - self.density

    @property
    def exploration_rate(self) -> float:
        """R_s: the fraction of sparsifiable weights that were ever active (Liu et al., ICML 2021)."""
        return sum(self.topology.num_explored) / self._numel

    @property
    def reliable_rate(self) -> float:
        """R_r: the fraction of sparsifiable weights that survived at least one pruning round; at most R_s."""
        return sum(self.topology.num_reliable) / self._numel

    @property
    def steps(self) -> int:
        """Optimiser steps taken; steps skipped by a gradient scaler do not count."""
        return self._context.step

    @property
    def num_updates(self) -> int:
        """Topology updates made."""
        return self.topology.num_updates

    @property
    def last_update(self) -> UpdateReport | None:
        """The report of the latest topology update; None before the first."""
        return self._last_update

    def mask(self, name: str) -> Tensor:
        """A layer's mask: bool, in its shape, on its device; a copy.

        Raises:
            KeyError: If no sparse layer has this name.
        """
        for i, layer in enumerate(self.topology.layers):
            if layer.name == name:
                return self.topology.active.to_tensor(i)
        raise KeyError(
            f"no sparse layer is called '{name}'; there are {', '.join(layer.name for layer in self.topology.layers)}"
        )

    def num_topology_bytes(self) -> int:
        """Memory of the topology: three bits a weight, rounded up to words."""
        return self.topology.num_bytes()

    def flops(self, *example_inputs: Any) -> Flops:
        """Forward and training FLOPs of one sample at the present density, beside dense (PAPER section 4).

        Args:
            *example_inputs: What the model is called with. Not needed once the model has seen a batch, whose shape the
                engine notes.

        Raises:
            RuntimeError: If the input's shape is not known yet.
        """
        from itop.analysis.flops import count_macs, forward_flops

        example = ExampleInput.of(example_inputs, {}) if example_inputs else self._example
        if example is None:
            raise RuntimeError(
                "flops() needs to know the model's input: call it after a batch went through the model, or as "
                "flops(example_input)"
            )
        model = self._context.model
        args, kwargs = example.make(self.topology.device)
        counted = count_macs(model, *args, example_kwargs=kwargs, num_samples=example.num_samples)
        names = {layer.name for layer in self.topology.layers}
        macs = {name: count for name, count in counted.items() if name in names}
        dense = forward_flops(macs)
        sparse = forward_flops(macs, {layer.name: layer.density for layer in self.layers})
        # Forward FLOPs are linear in the layers' densities: the mean over steps follows from the mean densities.
        average = forward_flops(macs, self.mean_densities)
        return Flops(sparse, dense, self.method.training_flops(average, dense).per_sample_step)

    @property
    def mean_densities(self) -> dict[str, float]:
        """The density of each layer averaged over the optimiser steps so far; the present one before the first."""
        if self.steps == 0:
            return {layer.name: layer.density for layer in self.layers}
        return {
            layer.name: int(total) / (self.steps * layer.numel)
            for layer, total in zip(self.topology.layers, self._active_step_sums, strict=True)
        }

    def _keep_example(self, example: ExampleInput) -> None:
        self._example = example

    # --- acting -------------------------------------------------------------------------------------------------------

    def on_update(self, callback: Callable[[UpdateReport], object]) -> Callable[[], None]:
        """Calls ``callback(report)`` after every topology update. Returns a function that ends it."""
        self._callbacks.append(callback)
        return functools.partial(self._callbacks.remove, callback)

    def update(self) -> UpdateReport | None:
        """One topology update now, whatever the schedule says.

        Growth by gradient looks at the gradients at hand: call it between ``backward()`` and ``optimizer.step()``, which
        masks them.

        Raises:
            ValueError: If weights or gradients hold NaN or infinity; nothing has been changed then.
            RuntimeError: If gradients are needed, and there are none or masked ones.
        """
        if self.method.needs_gradient and self._gradients_are_masked():
            raise RuntimeError(
                "growth by gradient needs dense gradients, but optimizer.step() has masked those at hand; call update() "
                "after backward() and before optimizer.step()"
            )
        self._move_if_needed()
        self._context.zero_all_inactive = self._needs_full_mask or self._was_changed_by_others()
        try:
            report = self._update()
        finally:
            self._context.zero_all_inactive = False
        if report is not None:
            self._remember()
        return report

    def step(self) -> UpdateReport | None:
        """For loops without hooks (``attach=False``): call it after ``optimizer.step()``. Otherwise changes nothing.

        Returns:
            The latest update's report.
        """
        if not self._attached:
            self._needs_full_mask = True
            self._count_step()
            self._move_if_needed()
            self._finish_step(update_due=self._is_update_step(self._context.step))
        return self._last_update

    def detach(self) -> None:
        """Removes the hooks. The model keeps its zeros and needs the engine no more."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for handle in self._handles_of_method:
            handle.remove()
        self._handles_of_method.clear()
        self._handles_of_example.remove()
        if isinstance(self.optimizer, MaskedOptimizer):
            self.optimizer.attach_topology(None)
        self._context.release_parameters()
        self._attached = False

    def _count_step(self) -> None:
        self._context.step += 1
        self._active_step_sums += self.topology.active_counts

    def _move_if_needed(self) -> None:
        before = self.topology.device
        self.topology.move_if_needed()
        if self.topology.device != before:
            self._context.follow_device()

    def _is_update_step(self, step: int) -> bool:
        return self.method.schedule.is_update_step(step, self._context.total_steps)

    def _update(self) -> UpdateReport | None:
        topology = self.topology
        before = topology.num_updates, topology.step
        topology.begin_update(self._context.step)
        try:
            report = self.method.update(self._context)
        except _core.NonFiniteError as error:
            topology.num_updates, topology.step = before
            raise ValueError(
                f"topology update {topology.num_updates + 1} at step {self.steps} refused: {error}"
            ) from None
        except Exception:
            topology.num_updates, topology.step = before
            raise
        if report is None:
            topology.num_updates, topology.step = before
            return None
        self._last_update = report
        for callback in tuple(self._callbacks):
            callback(report)
        return report

    # --- hooks ---------------------------------------------------------------------------------------------------------

    def _before_step(
        self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        self._skips_step = _was_skipped_by_scaler(optimizer)
        if self._skips_step:
            return None
        closure, place = _find_closure(args, kwargs)
        if closure is None:
            self._prepare_step(withhold=True)
            return None

        is_first = True

        def closure_then_prepare() -> Any:
            nonlocal is_first
            loss = closure()
            self._prepare_step(withhold=False, is_first_evaluation=is_first)
            is_first = False
            return loss

        if place is None:
            return args, {**kwargs, "closure": closure_then_prepare}
        return (*args[:place], closure_then_prepare, *args[place + 1 :]), kwargs

    def _prepare_step(self, withhold: bool, is_first_evaluation: bool = True) -> None:
        """Gradients are there: mask them, or update the topology by them."""
        step = self._context.step + 1
        self._updated_before_step = False
        self._masks_gradients = False
        self._move_if_needed()
        update_due = self._is_update_step(step)
        if is_first_evaluation and type(self.method).before_step is not Method.before_step:
            self.method.before_step(self._context)
        if type(self.method).regulariser is not Method.regulariser:
            self._regularise()
        if self.method.hides_weights(self._context):
            return
        if update_due and withhold and self.method.timing is UpdateTiming.REPLACES_STEP:
            self._context.step = step
            self._context.zero_all_inactive = self._needs_full_mask or self._was_changed_by_others()
            try:
                self._update()
            finally:
                self._context.step = step - 1
                self._context.zero_all_inactive = False
            self._updated_before_step = True
            self._withhold_gradients()
            return
        if isinstance(self.optimizer, MaskedOptimizer) and self.optimizer.uses_native_step:
            self._needs_full_mask |= self._was_changed_by_others()
            self._masks_gradients = self.topology.optimizer_state.zero_stays_zero
            self.topology.sweep()
        elif self.topology.optimizer_state.evaluates_repeatedly:
            # Its line search moves along gradients: masked ones keep every model it tries sparse.
            if update_due and self.method.needs_gradient:
                self._set_dense_gradients_aside()
            self.topology.apply_to_gradients()
            self._masked_gradient = self._first_gradient()
        elif self.topology.optimizer_state.zero_stays_zero and not (update_due and self.method.needs_gradient):
            self._needs_full_mask |= self._was_changed_by_others()
            self.topology.apply_to_gradients()
            self._masks_gradients = True
            self._masked_gradient = self._first_gradient()

    def _regularise(self) -> None:
        """Adds the gradient of the method's penalty, so that no loop has to add it to its loss."""
        with torch.enable_grad():
            penalty = self.method.regulariser(self._context)
        if penalty is None:
            return
        parameters = [layer.parameter for layer in self.topology.layers] + list(self._context.parameters.values())
        gradients = torch.autograd.grad(penalty * self._context.gradient_scale, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                parameter.grad = gradient
            else:
                parameter.grad += gradient

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._skips_step:
            return
        self._count_step()
        if self._withheld:
            self._give_gradients_back()
        self._finish_step(update_due=self._is_update_step(self._context.step) and not self._updated_before_step)

    def _finish_step(self, update_due: bool) -> None:
        state = self.topology.optimizer_state
        signature = state.signature()
        if not self._masks_gradients or signature != self._signature:
            self._needs_full_mask = True
        if type(self.method).after_step is not Method.after_step:
            self.method.after_step(self._context)
        if update_due:
            self._context.zero_all_inactive = self._needs_full_mask
            try:
                report = self._update()
            except Exception:
                if not self.method.hides_weights(self._context):
                    self.topology.apply()
                raise
            finally:
                self._context.zero_all_inactive = False
            if report is not None:
                self._needs_full_mask = False
        if self._needs_full_mask and not self.method.hides_weights(self._context):
            self.topology.apply()
        self._remember(signature)

    def _withhold_gradients(self) -> None:
        """The update takes the place of this optimiser step: with no gradient in sight the optimiser does nothing."""
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._withheld.append((parameter, parameter.grad))
                    parameter.grad = None

    def _set_dense_gradients_aside(self) -> None:
        """The optimiser gets masked copies; growth looks at the dense gradients of the last evaluation."""
        self._withheld = [
            (layer.parameter, layer.parameter.grad)
            for layer in self.topology.layers
            if layer.parameter.grad is not None
        ]
        for parameter, gradient in self._withheld:
            parameter.grad = gradient.clone()

    def _give_gradients_back(self) -> None:
        for parameter, gradient in self._withheld:
            parameter.grad = gradient
        self._withheld = []
        self._masked_gradient = None

    def _first_gradient(self) -> tuple[weakref.ref[Tensor], int] | None:
        """Tells the gradients of one backward pass from those of the next: a tensor and its version."""
        for layer in self.topology.layers:
            gradient = layer.parameter.grad
            if gradient is not None:
                return weakref.ref(gradient), gradient._version
        return None

    def _gradients_are_masked(self) -> bool:
        if self._masked_gradient is None or (now := self._first_gradient()) is None:
            return False
        return now[0]() is self._masked_gradient[0]() and now[1] == self._masked_gradient[1]

    def _remember(self, signature: tuple[int, int] | None = None) -> None:
        self._needs_full_mask = False
        self._masks_gradients = False
        self._signature = signature or self.topology.optimizer_state.signature()
        self._versions = [parameter._version for parameter in self._parameters]

    def _was_changed_by_others(self) -> bool:
        """Whether somebody wrote to the weights since the last step (a loaded checkpoint, swapped averages)."""
        return [parameter._version for parameter in self._parameters] != self._versions

    def _mark_foreign_change(self, optimizer: Optimizer) -> None:
        self._needs_full_mask = True

    # --- saving --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that continues the run bit for bit; loads with ``torch.load(..., weights_only=True)``.

        Masks are packed bytes in row-major order of each layer, whatever the device or memory format.
        """
        return {
            "version": STATE_VERSION,
            "method": self.method.name,
            "seed": self.topology.seed,
            "steps": self.steps,
            "num_updates": self.num_updates,
            "total_steps": self._context.total_steps,
            "layers": {
                layer.name: {"shape": list(layer.shape), **self.topology.layer_state(i)}
                for i, layer in enumerate(self.topology.layers)
            },
            "active_step_sums": self._active_step_sums.tolist(),
            "method_state": dict(self._context.state),
            "method_parameters": {name: value.detach() for name, value in self._context.parameters.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state: masks, explored and reliable sets, schedule position, random keys.

        Raises:
            ValueError: If the state is not an engine's, of another model, version or seed; nothing has been changed then.
        """
        self._check_state(state)
        layers = state["layers"]
        self._context.load(state["method_state"], state.get("method_parameters", {}))
        self.topology.load_layer_states(
            [layers[layer.name] for layer in self.topology.layers],
            int(state["num_updates"]),
            touches_values=not self.method.hides_weights(self._context),
        )
        self._context.step = int(state["steps"])
        self._active_step_sums = np.array(state.get("active_step_sums", [0] * len(layers)), dtype=np.int64)
        self._last_update = None
        self._remember()
        self._needs_full_mask = True

    def _check_state(self, state: Mapping[str, Any]) -> None:
        needed = {"version", "seed", "steps", "num_updates", "layers", "method_state"}
        if not isinstance(state, Mapping) or not needed <= set(state):
            raise ValueError(
                "this is not the state of a SparseEngine: expected the dictionary that state_dict() returned"
            )
        if state["version"] != STATE_VERSION:
            raise ValueError(
                f"the engine state has version {state['version']}, this release reads version {STATE_VERSION}"
            )
        if state["seed"] != self.topology.seed:
            raise ValueError(
                f"the engine state was saved with seed {state['seed']}, this engine has seed {self.topology.seed}"
            )
        for key in ("steps", "num_updates"):
            count = state[key]
            if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count < 2**32:
                raise ValueError(f"the engine state is damaged: {key} must be a whole number, got {count!r}")
        if not isinstance(state["method_state"], Mapping):
            raise ValueError(
                f"the engine state is damaged: method_state must be a dictionary, got {type(state['method_state']).__name__}"
            )
        saved = state["layers"]
        mine = {layer.name: list(layer.shape) for layer in self.topology.layers}
        if not isinstance(saved, Mapping) or set(saved) != set(mine):
            names = set(saved) if isinstance(saved, Mapping) else set()
            raise ValueError(
                "the engine state belongs to another model: layers "
                f"{', '.join(sorted(map(str, names ^ set(mine))))} are not in both"
            )
        for name, shape in mine.items():
            _check_layer_state(name, shape, saved[name])


def _check_layer_state(name: str, shape: list[int], saved: object) -> None:
    if not isinstance(saved, Mapping):
        raise ValueError(f"the engine state is damaged: layer '{name}' is a {type(saved).__name__}, not a dictionary")
    saved_shape = saved.get("shape")
    if not isinstance(saved_shape, (list, tuple)) or list(saved_shape) != shape:
        raise ValueError(
            f"the engine state belongs to another model: layer '{name}' has shape {saved_shape} there, {shape} here"
        )
    num_bytes = (math.prod(shape) + 7) // 8
    for key in ("active", "explored", "reliable"):
        bits = saved.get(key)
        if not isinstance(bits, Tensor) or bits.dtype != torch.uint8 or tuple(bits.shape) != (num_bytes,):
            raise ValueError(f"the engine state is damaged: the {key} bits of layer '{name}' are not {num_bytes} bytes")
    if (saved["active"] & ~saved["explored"]).any() or (saved["reliable"] & ~saved["explored"]).any():
        raise ValueError(
            f"the engine state is damaged: layer '{name}' has active or reliable weights that were never explored"
        )


def _starting_anew(
    batches: Iterable[tuple[Any, Any]] | Callable[[], Iterable[tuple[Any, Any]]],
) -> Callable[[], Iterable[tuple[Any, Any]]]:
    if callable(batches):
        return batches
    if iter(batches) is batches:
        raise ValueError(
            "batches must be something that can be iterated anew, such as a list, a loader, or a callable that returns "
            "an iterator; got an iterator"
        )
    return lambda: batches


def _was_skipped_by_scaler(optimizer: Optimizer) -> bool:
    """Whether a fused optimiser is about to skip this step because the gradient scaler found an overflow."""
    found_inf = getattr(optimizer, "found_inf", None)
    return isinstance(found_inf, Tensor) and bool(found_inf.item() != 0)


def _find_closure(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Callable[[], Any] | None, int | None]:
    """The closure given to ``optimizer.step`` and its place in ``args`` (None: a keyword).

    Hooks see ``args`` as the optimiser's wrapper does: with or without the optimiser itself in front.
    """
    if callable(kwargs.get("closure")):
        return kwargs["closure"], None
    for place, argument in enumerate(args):
        if callable(argument) and not isinstance(argument, Optimizer):
            return argument, place
    return None, None
