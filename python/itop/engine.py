"""``SparseEngine``: attaches dynamic sparse training to any model, optimiser and training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from itop.allocation import AllocationLike
from itop.analysis.flops import count_macs, forward_flops
from itop.context import Context, TrainingData
from itop.displaced_values import DisplacedValues
from itop.distributed.agreement import Ranks, check_same, check_same_topology
from itop.distributed.shards import is_sharded
from itop.engine_plan import THE_LAYERS, EnginePlan, fingerprint, plan_engine, starting_anew
from itop.engine_state import STATE_VERSION, MadeWith, ReadState, pack_method_state, read_state
from itop.example_input import ExampleInput, record_example
from itop.grown_state import GrownState, YoungWeights, ZeroState
from itop.held_layers import HeldLayers
from itop.layer_state import LayerState
from itop.layers import Rules, unwrap
from itop.methods import Method
from itop.optim import MaskedOptimizer
from itop.saved_codes import active_of
from itop.sparse_topology import make_topology
from itop.stepper import Stepper
from itop.topology_updates import TopologyUpdates
from itop.training_cost import Flops
from itop.update_report import UpdateReport

_logger = logging.getLogger(__name__)


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
        self._ranks = Ranks.of(model)

        def prepare() -> tuple[EnginePlan, Context]:
            plan = plan_engine(
                model,
                optimizer,
                method,
                sparsity=sparsity,
                allocation=allocation,
                total_steps=total_steps,
                seed=seed,
                include=include,
                exclude=exclude,
                attach=attach,
                grown_state=grown_state,
            )
            is_collective = self._ranks.is_collective
            context = Context(
                make_topology(plan.layers, plan.optimizer_state, seed, is_collective=is_collective),
                unwrap(model),
                plan.optimizer,
                plan.counts,
                total_steps,
                plan.allocation,
                None if batches is None else TrainingData(starting_anew(batches), loss),
                self._ranks,
            )
            plan.method.check(context)
            return plan, context

        plan, self._context = self._ranks.agree(
            prepare,
            lambda prepared: fingerprint(prepared[0].method, prepared[0].layers, prepared[0].counts, total_steps, seed),
            meets_by=THE_LAYERS,
        )
        self.method = plan.method
        self.optimizer = plan.optimizer
        self.topology = self._context.topology
        self._made_with = MadeWith.of(plan.method, plan.layers, plan.counts, grown_state)
        self._displaced: DisplacedValues | None = DisplacedValues(self.topology)
        self.method.initialise(self._context)
        self._displaced.masks_are_set()
        self._young = YoungWeights(grown_state, self.topology) if grown_state.horizon > 0 else None
        if self._young is not None:
            self.topology.on_grown = self._young.add
        self._is_verified = not self._ranks.is_collective
        self._held = HeldLayers(self._context.model, self.topology.layers, acts_by_itself=attach)
        self._updates = TopologyUpdates(self._context, self.method)
        self._stepper = Stepper(
            self._context, self.method, plan.members, self._young, self._updates, self._before_any_step
        )
        self._example: ExampleInput | None = None
        self._attach(model, plan.members, attach, sparse_gradients)

    def _attach(
        self, model: nn.Module, members: Sequence[Optimizer], hooks_steps: bool, sparse_gradients: bool
    ) -> None:
        self._handles = [record_example(model, self._keep_example), *self.method.hooks(self._context)]
        if self.method.needs_gradient or self.method.needs_gradient_every_step:
            self._handles += self.topology.record_gradients(self._looks_at_gradients)
        for member in members:
            if isinstance(member, MaskedOptimizer):
                member.attach_topology(self.topology)
        if hooks_steps:
            self._stepper.attach(sparse_gradients)
        self._hooks_steps = hooks_steps

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
    def hides_weights(self) -> bool:
        """Whether the optimiser trains other weights than the model holds, from which the method computes those."""
        return self.method.hides_weights(self._context)

    @property
    def last_update(self) -> UpdateReport | None:
        """The report of the latest topology update; None before the first."""
        return self._updates.last

    def mask(self, name: str) -> Tensor:
        """A layer's mask: bool, in its shape, on its device; a copy. A DTensor where the layer is one.

        Raises:
            KeyError: If no sparse layer has this name.
        """
        self._stepper.follow_model()
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
        made = fingerprint(
            self.method, self.topology.layers, context.target_counts, context.total_steps, self.topology.seed
        )
        position = {"steps": str(self.steps), "num_updates": str(self.num_updates)}
        everyone = self._ranks.gather((made, position, self.topology.layer_digests()))
        check_same({rank: theirs[0] for rank, theirs in everyone.items()})
        check_same({rank: theirs[1] for rank, theirs in everyone.items()}, "load one state on every rank")
        check_same_topology({rank: theirs[2] for rank, theirs in everyone.items()})
        self._is_verified = True

    def _before_any_step(self) -> None:
        self._held.check()
        self._displaced = None
        self._ranks.look()
        if not self._is_verified:
            self.check_sync()

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
        self._stepper.follow_model()
        example = ExampleInput.of(example_inputs, {}) if example_inputs else self._example
        if example is None:
            raise RuntimeError(
                "flops() needs to know the model's input: call it after a batch went through the model (one that is compiled does "
                "not tell), or as flops(example_input)"
            )
        model = self._context.model
        args, kwargs = example.make(self.topology.device)
        counted = count_macs(model, *args, example_kwargs=kwargs, num_samples=example.num_samples)
        names = {layer.name for layer in self.topology.layers}
        macs = {name: count for name, count in counted.items() if name in names}
        present = {layer.name: layer.density for layer in self.layers}
        training = self._stepper.density_record.training_flops(self.method, macs, present)
        return Flops(forward_flops(macs, present), forward_flops(macs), training.per_sample_step)

    def tickets(self) -> list[dict[str, Tensor]]:
        """Networks that the method has set aside so far as members of an ensemble, such as those of ``"edst"``.

        Each is what ``model.load_state_dict`` takes; empty for methods that end with one network.
        """
        return [dict(ticket) for ticket in self.method.tickets(self._context)]

    @property
    def mean_densities(self) -> dict[str, float]:
        """The density of each layer averaged over the optimiser steps so far; the present one before the first."""
        return self._stepper.density_record.mean_densities or {layer.name: layer.density for layer in self.layers}

    def _keep_example(self, example: ExampleInput) -> None:
        self._example = example

    # --- acting -------------------------------------------------------------------------------------------------------

    def on_update(self, callback: Callable[[UpdateReport], object]) -> Callable[[], None]:
        """Calls ``callback(report)`` after every topology update. Returns a function that ends it."""
        return self._updates.on_update(callback)

    def before_update(self, callback: Callable[[int], object]) -> Callable[[], None]:
        """Calls ``callback(step)`` just before every topology update. Returns a function that ends it.

        The callback may look at everything and change nothing.
        """
        return self._updates.before_update(callback)

    def update(self) -> UpdateReport | None:
        """One topology update now, whatever the schedule says.

        Growth by gradient looks at the gradients at hand: call it between ``backward()`` and ``optimizer.step()``, which
        masks them.

        Raises:
            ValueError: If weights or gradients hold NaN or infinity; nothing has been changed then.
            RuntimeError: If gradients are needed, and there are none or masked ones.
        """
        self._held.check()
        self._displaced = None
        return self._stepper.update_now()

    def step(self) -> UpdateReport | None:
        """For loops without hooks (``attach=False``): call it after ``optimizer.step()``. Otherwise changes nothing.

        Returns:
            The latest update's report.
        """
        if not self._hooks_steps:
            self._stepper.step_was_taken()
        return self.last_update

    def detach(self) -> None:
        """Removes the hooks. The model keeps its zeros and needs the engine no more."""
        self._stepper.detach()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for member in self._context.members:
            if isinstance(member, MaskedOptimizer):
                member.attach_topology(None)
        self._context.release_parameters()
        self._held.release()
        self._hooks_steps = False

    def _looks_at_gradients(self) -> bool:
        """Whether the method looks at the gradients of inactive weights in the step that comes."""
        return self.method.needs_gradient_every_step or self._updates.is_due(self.steps + 1)

    # --- saving --------------------------------------------------------------------------------------------------------

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError(
            "a SparseEngine can be neither copied nor pickled, it is hooked to its optimiser; save state_dict(), and load it "
            "into an engine made of the other model and optimiser"
        )

    def state_dict(self, *, full: bool = False) -> dict[str, Any]:
        """Everything that continues the run bit for bit; loads with ``torch.load(..., weights_only=True)``.

        The engine is ``Stateful`` for torch.distributed.checkpoint: ``dcp.save({"engine": engine}, ...)``. Of a sharded
        layer the state holds a DTensor, which another number of ranks may load.

        Args:
            full: Gather sharded layers whole on every rank, for ``torch.save``; every rank must call it.
        """
        self._stepper.follow_model()
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
            **self._stepper.density_record.state_dict(),
            "method_state": pack_method_state(self._context.state, self._made_with, topology),
            "method_parameters": {name: value.detach().clone() for name, value in self._context.parameters.items()},
            **({} if self._young is None else {"ages": self._young.state_dict(full)}),
        }

    def check_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises what :meth:`load_state_dict` would, and changes nothing: to look before model and optimiser are loaded."""
        self._read(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from a saved state: masks, explored and reliable sets, schedule position, random keys.

        Model, optimiser and engine may be loaded in any order, and the engine made before or after the others are.

        Where ranks share the model every rank must load, and the first step afterwards makes sure that all loaded alike.

        Another ``total_steps`` or other options of the method than those saved hold from here on; a warning is logged that
        names them. ``method="fixed"`` trains on with the masks of any method.

        Raises:
            ValueError: If the state is not an engine's, of another model, version, seed, method, sparsity, allocation or
                sharding, or damaged; nothing has been changed then.
        """
        read = self._read(state)
        for difference in read.differences:
            _logger.warning("from step %d on the engine goes on with %s", state["steps"], difference)
        if self._displaced is not None:
            self._displaced.put_back([active_of(codes) for codes in read.codes])
        self._context.load(read.method_state, read.method_parameters)
        self.topology.load_codes(
            read.codes, state["num_updates"], touches_values=not self.method.hides_weights(self._context)
        )
        self._context.step = state["steps"]
        self._stepper.density_record.load(state, self.steps)
        if self._young is not None and isinstance(ages := state.get("ages"), Mapping):
            self._young.load_state_dict(ages)
        self._stepper.forget()
        self._updates.last = None
        self._is_verified = not self._ranks.is_collective

    def _read(self, state: Mapping[str, Any]) -> ReadState:
        """The state in the parts held here; a ValueError on every rank if one refuses."""
        self._stepper.follow_model()

        def read() -> ReadState:
            found = read_state(state, self.topology, self.method, self._made_with, self._context.total_steps)
            self._context.check_parameters(found.method_parameters)
            self._stepper.density_record.check(state)
            if self._young is not None and state.get("ages") is not None:
                self._young.check(state["ages"])
            return found

        ranks = self._ranks if self.topology.has_shards else Ranks()
        return ranks.agree(read, lambda _: {"steps": str(state["steps"])})
