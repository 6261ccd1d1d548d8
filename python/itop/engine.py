"""``SparseEngine``: attaches dynamic sparse training to any model, optimiser and training loop."""

from __future__ import annotations

import functools
import math
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from itop import _core
from itop.allocation import Allocation, AllocationLike, LayerShape, as_allocation, target_count
from itop.analysis.flops import count_macs, forward_flops
from itop.analysis.training_flops import SparseTraining, TrainingFlops, TrainingPhase, VaryingTraining
from itop.context import Context, TrainingData
from itop.distributed.agreement import Ranks, check_same, check_same_topology, describe_options
from itop.distributed.shards import is_sharded, like_parameter, local_part, reshard
from itop.engine_state import STATE_VERSION, check_state, pack_method_state, unpack_method_state
from itop.example_input import ExampleInput, record_example
from itop.grown_state import GrownState, YoungWeights, ZeroState
from itop.layers import Layer, Rules, find_layers, unwrap
from itop.methods import Method, UpdateTiming, as_method
from itop.optim import MaskedOptimizer
from itop.optimizer_calls import find_closure, in_eager_mode, only_makes_state, owner_of, was_skipped_by_scaler
from itop.optimizer_group import OptimizerGroup, StepRound
from itop.optimizer_state import OptimizerState
from itop.sparse_topology import make_topology
from itop.topology import UpdateReport


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
        optimizer: Any ``torch.optim.Optimizer`` over the model's parameters, or several that share them; then a step of
            the engine is one step of each, whenever it comes (also while backward runs).
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
        sparse_gradients: Mask gradients as backward produces them and not only inside the step, so that clipping and
            norms before the step see the sparse network's. At the update steps of methods that grow by gradient they
            stay dense.
        grown_state: How grown weights enter the optimiser: ``ZeroState()``, ``OwnStepCount()`` or ``WarmUp(steps)``.

    Raises:
        ValueError: If an argument does not fit; nothing has been changed then.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | Sequence[Optimizer],
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
        sparse_gradients: bool = False,
        grown_state: GrownState = ZeroState(),  # noqa: B008 - a frozen value
    ) -> None:
        self._check_arguments(model, optimizer, total_steps, seed)
        members = (optimizer,) if isinstance(optimizer, Optimizer) else tuple(optimizer)
        stepper = members[0] if isinstance(optimizer, Optimizer) else OptimizerGroup(members)

        def prepare() -> tuple[Method, Allocation, tuple[Layer, ...], list[int], OptimizerState]:
            target_count(1, sparsity)  # says what is wrong with it before anything else is asked
            chosen_method = as_method(method).for_sparsity(sparsity)
            if chosen_method.needs_total_steps and total_steps is None:
                raise ValueError(
                    f"method '{chosen_method.name}' needs total_steps, the number of optimiser steps of the run: its "
                    "schedule depends on it"
                )
            if chosen_method.acts_before_step and not attach:
                raise ValueError(
                    f"method '{chosen_method.name}' acts before each optimiser step and needs the engine's hooks: "
                    "attach=True"
                )
            layers = find_layers(model, include, exclude)
            shapes = [LayerShape(layer.name, layer.shape) for layer in layers]
            chosen = as_allocation(chosen_method.default_allocation if allocation is None else allocation)
            counts = [shape.numel for shape in shapes] if chosen_method.is_dense else chosen.counts(shapes, sparsity)
            if not chosen_method.works_on_shards and any(is_sharded(layer.parameter) for layer in layers):
                raise ValueError(
                    f"method '{chosen_method.name}' looks at whole layers and does not work on sharded ones (FSDP2, tensor "
                    "parallelism); use DistributedDataParallel"
                )
            compressed = next((layer for layer in layers if layer.is_compressed), None)
            if compressed is not None and not chosen_method.works_truly_sparse:
                raise ValueError(
                    f"method '{chosen_method.name}' looks at inactive weights, which the truly sparse layer "
                    f"'{compressed.name}' does not hold; use dense layers, which are masked"
                )
            if compressed is not None and grown_state.horizon > 0:
                raise ValueError("grown_state does not follow truly sparse layers; use dense layers, which are masked")
            state = OptimizerState(stepper, layers)
            if grown_state.horizon > 0:
                if not isinstance(stepper, Optimizer) or not attach:
                    raise ValueError("grown_state needs one optimiser, by itself and with the engine's hooks")
                grown_state.check(stepper)
            self._check_finite(layers)
            for member in members:
                self._check_no_other_engine(member, layers)
            return chosen_method, chosen, layers, counts, state

        reshard(model)
        self._ranks = Ranks.of(model)
        self.method, chosen, layers, counts, state = self._ranks.agree(
            prepare, lambda plan: _fingerprint(plan[0], plan[2], plan[3], total_steps, seed)
        )

        self.optimizer = stepper
        self.topology = make_topology(layers, state, seed, is_collective=self._ranks.is_collective)
        data = None if batches is None else TrainingData(_starting_anew(batches), loss)
        self._context = Context(self.topology, unwrap(model), stepper, counts, total_steps, chosen, data, self._ranks)
        self.method.check(self._context)
        self._active_step_sums = np.zeros(len(layers), dtype=np.int64)
        self._acting_step_sums = np.zeros(len(layers), dtype=np.int64)
        self._acting_steps = 0
        self._callbacks: list[Callable[[UpdateReport], object]] = []
        self._callbacks_before: list[Callable[[int], object]] = []
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
        self._is_verified = not self._ranks.is_collective
        self._example: ExampleInput | None = None
        self.method.initialise(self._context)
        self._handles_of_example = record_example(model, self._keep_example)
        self._handles_of_method = list(self.method.hooks(self._context))
        if self.method.needs_gradient or self.method.needs_gradient_every_step:
            self._handles_of_method += self.topology.record_gradients(self._looks_at_gradients)
        self._acts_before_step = self.method.has_before_step
        self._young: YoungWeights | None = None
        if grown_state.horizon > 0:
            self._young = YoungWeights(grown_state, self.topology)
            self.topology.on_grown = self._young.add
        self._round = StepRound(members, self._finish_round)
        for member in members:
            if isinstance(member, MaskedOptimizer):
                member.attach_topology(self.topology)
        if attach:
            self._attach(members, sparse_gradients)
        self._remember()

    def _attach(self, members: Sequence[Optimizer], sparse_gradients: bool) -> None:
        before, after = self._before_step, self._after_step
        if isinstance(self.optimizer, OptimizerGroup):
            before, after = self._before_member_step, self._after_member_step
        for member in members:
            self._handles.append(member.register_step_pre_hook(in_eager_mode(before)))
            self._handles.append(member.register_step_post_hook(in_eager_mode(after)))
            if hasattr(member, "register_load_state_dict_post_hook"):
                self._handles.append(member.register_load_state_dict_post_hook(self._mark_foreign_change))
        if sparse_gradients:
            hook = in_eager_mode(self._mask_new_gradient)
            for layer in self.topology.layers:
                register: Callable[..., RemovableHandle] = layer.parameter.register_post_accumulate_grad_hook
                self._handles.append(register(hook))

    @staticmethod
    def _check_arguments(model: object, optimizer: object, total_steps: object, seed: object) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        several = isinstance(optimizer, (list, tuple)) and len(optimizer) > 0
        for member in optimizer if several else (optimizer,):  # type: ignore[attr-defined]
            if not isinstance(member, Optimizer):
                raise TypeError(
                    f"optimizer must be a torch.optim.Optimizer or a list of them, got {type(member).__name__}"
                )
        if total_steps is not None and (
            isinstance(total_steps, bool) or not isinstance(total_steps, int) or total_steps < 1
        ):
            raise ValueError(f"total_steps must be a whole number, at least 1, got {total_steps!r}")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
            raise ValueError(f"seed must be a whole number in [0, 2^64), got {seed!r}")

    @staticmethod
    def _check_finite(layers: Sequence[Layer]) -> None:
        for layer in layers:
            if not torch.isfinite(local_part(layer.parameter)).all():
                raise ValueError(f"the weights of layer '{layer.name}' hold NaN or infinity")

    @staticmethod
    def _check_no_other_engine(optimizer: Optimizer, layers: Sequence[Layer]) -> None:
        mine = {id(layer.parameter) for layer in layers}
        for hook in optimizer._optimizer_step_pre_hooks.values():
            other = owner_of(hook)
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
        """A layer's mask: bool, in its shape, on its device; a copy. A DTensor where the layer is one.

        Raises:
            KeyError: If no sparse layer has this name.
        """
        for i, layer in enumerate(self.topology.layers):
            if layer.name == name:
                return self.topology.mask(i)
        raise KeyError(
            f"no sparse layer is called '{name}'; there are {', '.join(layer.name for layer in self.topology.layers)}"
        )

    def check_sync(self) -> None:
        """Makes sure that all ranks hold the same topology, by 128-bit digests of it. Every rank must call it.

        Ranks that hold copies of a part must agree about it; all must agree about seed, method, layers and position.
        Does nothing where there is one process.

        Raises:
            ValueError: On every rank alike, naming the layer, or what else differs.
        """
        context = self._context
        fingerprint = {
            **_fingerprint(
                self.method, self.topology.layers, context.target_counts, context.total_steps, self.topology.seed
            ),
            "steps": str(self.steps),
            "num_updates": str(self.num_updates),
        }
        everyone = self._ranks.gather((fingerprint, self.topology.layer_digests()))
        check_same({rank: theirs for rank, (theirs, _) in everyone.items()})
        check_same_topology({rank: digests for rank, (_, digests) in everyone.items()})
        self._is_verified = True

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
        return Flops(sparse, dense, self._training_flops(macs, dense).per_sample_step)

    def _training_flops(self, macs: Mapping[str, float], dense: float) -> TrainingFlops:
        # Forward FLOPs are linear in the layers' densities: the mean over steps follows from the mean densities.
        if self._acting_steps == self.steps:
            return self.method.training_flops(forward_flops(macs, self.mean_densities), dense)
        acting = self._densities_over(self._acting_step_sums, max(1, self._acting_steps))
        resting_steps = self.steps - self._acting_steps
        resting = self._densities_over(self._active_step_sums - self._acting_step_sums, resting_steps)
        phases = (
            TrainingPhase(self._acting_steps, self.method.training_flops(forward_flops(macs, acting), dense)),
            TrainingPhase(resting_steps, SparseTraining(forward_flops(macs, resting))),
        )
        return VaryingTraining(phases)

    def _densities_over(self, sums: npt.NDArray[np.int64], steps: int) -> dict[str, float]:
        return {
            layer.name: int(total) / (steps * layer.numel)
            for layer, total in zip(self.topology.layers, sums, strict=True)
        }

    @property
    def mean_densities(self) -> dict[str, float]:
        """The density of each layer averaged over the optimiser steps so far; the present one before the first."""
        if self.steps == 0:
            return {layer.name: layer.density for layer in self.layers}
        return self._densities_over(self._active_step_sums, self.steps)

    def _keep_example(self, example: ExampleInput) -> None:
        self._example = example

    # --- acting -------------------------------------------------------------------------------------------------------

    def on_update(self, callback: Callable[[UpdateReport], object]) -> Callable[[], None]:
        """Calls ``callback(report)`` after every topology update. Returns a function that ends it."""
        self._callbacks.append(callback)
        return functools.partial(self._callbacks.remove, callback)

    def before_update(self, callback: Callable[[int], object]) -> Callable[[], None]:
        """Calls ``callback(step)`` just before every topology update. Returns a function that ends it.

        The callback may look at everything and change nothing.
        """
        self._callbacks_before.append(callback)
        return functools.partial(self._callbacks_before.remove, callback)

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
        for member in self.optimizer.members if isinstance(self.optimizer, OptimizerGroup) else (self.optimizer,):
            if isinstance(member, MaskedOptimizer):
                member.attach_topology(None)
        self._context.release_parameters()
        self._attached = False

    def _count_step(self) -> None:
        self._context.step += 1
        self._active_step_sums += self.topology.active_counts
        if self.method.acts(self._context):
            self._acting_step_sums += self.topology.active_counts
            self._acting_steps += 1

    def _move_if_needed(self) -> None:
        before = self.topology.device
        self.topology.move_if_needed()
        if self.topology.device != before:
            self._context.follow_device()

    def _is_update_step(self, step: int) -> bool:
        return self.method.schedule.is_update_step(step, self._context.total_steps)

    def _looks_at_gradients(self) -> bool:
        """Whether the method looks at the gradients of inactive weights in the step that comes."""
        return self.method.needs_gradient_every_step or self._is_update_step(self._context.step + 1)

    def _update(self) -> UpdateReport | None:
        topology = self.topology
        for observe in tuple(self._callbacks_before):
            observe(self._context.step)
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
        self._skips_step = was_skipped_by_scaler(optimizer) or only_makes_state(optimizer)
        if self._skips_step:
            return None
        if not self._is_verified:
            self.check_sync()
        closure, place = find_closure(args, kwargs)
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
        if is_first_evaluation and self._acts_before_step:
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
            self._withhold_gradients(self.optimizer)
            return
        if self._young is not None:
            assert isinstance(self.optimizer, Optimizer)
            self._young.before_step(self.optimizer)
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
            self._masks_gradients = self.topology.apply_to_gradients()
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

    def _before_member_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """One of several optimisers steps, maybe while backward runs: other gradients may not be there yet, or be gone."""
        self._skips_step = was_skipped_by_scaler(optimizer) or only_makes_state(optimizer)
        if self._skips_step:
            return
        if find_closure(args, kwargs)[0] is not None:
            raise ValueError("an engine over several optimisers cannot follow closures: call step() without one")
        if not self._is_verified:
            self.check_sync()
        self._round.begin(optimizer)
        if not self._round.is_open:
            self._move_if_needed()
            if self._acts_before_step:
                self.method.before_step(self._context)
        if not self._is_update_step(self._context.step + 1):
            return
        if self.method.needs_gradient:
            for i in self._layers_of(optimizer):
                gradient = self.topology.layers[i].parameter.grad
                if gradient is not None:
                    self._round.gradients[i] = gradient.detach().clone()
        if self.method.timing is UpdateTiming.REPLACES_STEP:
            self._withhold_gradients(optimizer)

    def _after_member_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._skips_step:
            return
        self._give_gradients_back()
        if not self.method.hides_weights(self._context):
            self.topology.apply(self._layers_of(optimizer))
        self._round.done(optimizer)

    def _finish_round(self) -> None:
        """Each of several optimisers has stepped once."""
        self._count_step()
        self.topology.kept_gradients = self._round.gradients
        try:
            self._finish_step(update_due=self._is_update_step(self._context.step))
        finally:
            self.topology.kept_gradients = {}

    def _layers_of(self, optimizer: Optimizer) -> list[int]:
        places = self.topology.layer_of_parameter
        return [
            places[id(parameter)]
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in places
        ]

    def _mask_new_gradient(self, parameter: Tensor) -> None:
        """Backward has made a gradient. Where an update is about to look at it, it stays dense."""
        if not (self.method.needs_gradient and self._is_update_step(self._context.step + 1)):
            self.topology.apply_to_gradients([self.topology.layer_of_parameter[id(parameter)]])
            self._masked_gradient = self._first_gradient()

    def _after_step(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._skips_step:
            return
        self._count_step()
        if self._withheld:
            self._give_gradients_back()
        if self._young is not None and not self._updated_before_step:
            self._young.after_step()
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

    def _withhold_gradients(self, optimizer: Optimizer | OptimizerGroup) -> None:
        """The update takes the place of this optimiser step: with no gradient in sight the optimiser does nothing."""
        for group in optimizer.param_groups:
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

    def state_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Everything that continues the run bit for bit; loads with ``torch.load(..., weights_only=True)``.

        The engine is ``Stateful`` for torch.distributed.checkpoint: ``dcp.save({"engine": engine}, ...)``. Of a sharded
        layer the state holds a DTensor, which another number of ranks may load.

        Args:
            full: Gather sharded layers whole on every rank, for ``torch.save``; every rank must call it.
        """
        topology = self.topology
        layers = {layer.name: topology.layer_codes(i) for i, layer in enumerate(topology.layers)}
        if full:
            layers = {name: codes.full_tensor() if is_sharded(codes) else codes for name, codes in layers.items()}
        return {
            "version": STATE_VERSION,
            "method": self.method.name,
            "seed": topology.seed,
            "steps": self.steps,
            "num_updates": self.num_updates,
            "total_steps": self._context.total_steps,
            "layers": layers,
            "active_step_sums": self._active_step_sums.tolist(),
            "acting_step_sums": self._acting_step_sums.tolist(),
            "acting_steps": self._acting_steps,
            "method_state": pack_method_state(self._context.state, topology),
            "method_parameters": {name: value.detach() for name, value in self._context.parameters.items()},
            **({} if self._young is None else {"ages": self._ages(self._young, full)}),
        }

    def _ages(self, young: YoungWeights, full: bool) -> dict[str, Tensor]:
        """Of each layer int32: 0 for old weights, steps since growth + 1 for young ones."""
        topology = self.topology
        ages = [like_parameter(young.to_tensor(i), layer.parameter) for i, layer in enumerate(topology.layers)]
        return {
            layer.name: tensor.full_tensor() if full and is_sharded(tensor) else tensor
            for layer, tensor in zip(topology.layers, ages, strict=True)
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state: masks, explored and reliable sets, schedule position, random keys.

        Where ranks share the model every rank must load, and the first step afterwards makes sure that all loaded alike.

        Raises:
            ValueError: If the state is not an engine's, of another model, version, seed or sharding, or damaged; nothing
                has been changed then.
        """

        def checked() -> tuple[list[Tensor], dict[str, Any]]:
            codes = check_state(state, self.topology)
            return codes, unpack_method_state(state["method_state"], self.topology)

        ranks = self._ranks if self.topology.has_shards else Ranks()
        codes, method_state = ranks.agree(checked, lambda _: {"steps": str(state["steps"])})
        self._context.load(method_state, state.get("method_parameters", {}))
        self.topology.load_codes(
            codes, state["num_updates"], touches_values=not self.method.hides_weights(self._context)
        )
        self._context.step = state["steps"]
        self._active_step_sums = np.array(state.get("active_step_sums", [0] * len(codes)), dtype=np.int64)
        self._acting_step_sums = np.array(state.get("acting_step_sums", self._active_step_sums), dtype=np.int64)
        self._acting_steps = int(state.get("acting_steps", self._context.step))
        if self._young is not None and isinstance(ages := state.get("ages"), Mapping):
            self._young.load(
                local_part(ages[layer.name])
                if is_sharded(ages[layer.name])
                else self.topology.part(i, ages[layer.name])
                for i, layer in enumerate(self.topology.layers)
            )
        self._last_update = None
        self._remember()
        self._needs_full_mask = True
        self._is_verified = not self._ranks.is_collective


def _fingerprint(
    method: Method, layers: Sequence[Layer], counts: Sequence[int], total_steps: int | None, seed: int
) -> dict[str, str]:
    """What must be alike on all ranks."""
    return {
        "the version of itop": str(_core.build_info()["version"]),
        "the layers": ", ".join(f"{layer.name} {list(layer.shape)}" for layer in layers),
        "seed": str(seed),
        "the method": f"{method.name}({describe_options(method.options())})",
        "active weights per layer": str(list(counts)),
        "total_steps": str(total_steps),
    }


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
