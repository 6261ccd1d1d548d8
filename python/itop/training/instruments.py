"""What a run looks at beside its losses and rates: how its topology moves, and what that does to gradients.

Everything is read, nothing changed: a run with instruments gives the same masks and weights as one without.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, final

import numpy as np
import torch
from torch import Tensor, nn

from itop import SparseEngine
from itop.analysis.feature_importance import input_strength
from itop.analysis.gradient_flow import GradientFlow, measure_gradient_flow
from itop.analysis.history import TopologyHistory
from itop.analysis.layer import masks_of
from itop.analysis.packed_mask import PackedMask
from itop.analysis.survival import SurvivalCurve
from itop.analysis.topology_distance import sources_by_shape, topology_distance
from itop.methods import DropAndGrow, Method
from itop.training.files import write_atomically, write_json
from itop.training.meter import Batch
from itop.training.run_folder import RunFolder

__all__ = ["Instruments", "Snapshots", "read_snapshots"]

Snapshots = dict[int, dict[str, PackedMask]]
"""Topologies by optimiser step, each a packed mask by layer name."""

_MAX_CURVE_POINTS = 200


@final
class Instruments:
    """Follows one run's topology.

    At `num_probes` + 1 moments from the start to the end, evenly spaced, the masks are kept; at the first update after
    each of them the norm of the gradient over active weights is measured before and after, on the batch of that step.
    Survival and churn follow every update.

    Args:
        engine: At its start, or about to be restored.
        model: The engine's, not compiled.
        method: Gradient flow is measured where its update does not depend on what else runs through the model.
        batch_loss: The loss of a batch of the model as it is, in the run's precision.
        total_steps: Of the run.
        num_probes: 0 keeps nothing at all.
    """

    def __init__(
        self,
        engine: SparseEngine,
        model: nn.Module,
        method: Method,
        batch_loss: Callable[[Tensor, Tensor], Tensor],
        *,
        total_steps: int,
        num_probes: int,
    ) -> None:
        self._engine, self._model, self._batch_loss = engine, model, batch_loss
        self._probe_steps = sorted(
            {round(total_steps * i / num_probes) for i in range(num_probes + 1)} if num_probes else ()
        )
        self._snapshots: Snapshots = {}
        self._flows: list[dict[str, float]] = []
        self._flow_before: GradientFlow | None = None
        self._batch: Batch | None = None
        self._history = TopologyHistory(engine) if num_probes else None
        may_look = isinstance(method, DropAndGrow) and not method.acts_before_step
        if num_probes and may_look and {layer.name for layer in engine.layers} <= dict(model.named_parameters()).keys():
            engine.before_update(self._before_update)
            engine.on_update(lambda report: self._after_update())

    def batch_taken(self, images: Tensor, labels: Tensor) -> None:
        """The batch of the step that comes."""
        self._batch = images, labels

    def step_taken(self, step: int) -> None:
        """To be called at step 0 and after every optimiser step."""
        if step in self._probe_steps:
            self._snapshots[step] = {name: PackedMask.pack(mask) for name, mask in masks_of(self._engine).items()}

    def state_dict(self) -> dict[str, Any]:
        """Plain containers and tensors."""
        if self._history is None:
            return {}
        return {
            "history": self._history.state_dict(),
            "flows": [dict(flow) for flow in self._flows],
            "snapshots": {
                step: {
                    name: (list(mask.shape), torch.from_numpy(mask.words.view(np.int64)))
                    for name, mask in masks.items()
                }
                for step, masks in self._snapshots.items()
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a saved state; the engine must have been restored before."""
        if self._history is None or not state:
            return
        self._history.load_state_dict(state["history"])
        self._flows = [dict(flow) for flow in state["flows"]]
        self._snapshots = {
            int(step): {
                name: PackedMask(tuple(shape), words.cpu().numpy().view(np.uint64))
                for name, (shape, words) in masks.items()
            }
            for step, masks in state["snapshots"].items()
        }

    def write(self, folder: RunFolder, input_shape: tuple[int, ...]) -> None:
        """Writes ``analysis.json`` and ``topology.npz``; nothing where there were no probes."""
        if self._history is None:
            return
        history = self._history
        write_json(
            folder.analysis,
            {
                "survival": _curve(history.survival(self._engine.steps)) if history.steps else None,
                "churn": {"steps": history.steps, "weights": history.churn},
                "gradient_flow": self._flows,
                "topology_distance": self._distances(),
                "input_strength": self._input_strength(input_shape),
            },
        )
        write_atomically(folder.topology, self._write_snapshots)

    # --- gradient flow ----------------------------------------------------------------------------------------------

    def _before_update(self, step: int) -> None:
        passed = sum(probe < step for probe in self._probe_steps)
        self._flow_before = self._flow() if passed > len(self._flows) else None

    def _after_update(self) -> None:
        if self._flow_before is None:
            return
        before, after = self._flow_before.total, self._flow().total
        self._flow_before = None
        if np.isfinite(before) and np.isfinite(after):
            self._flows.append({"step": self._engine.steps, "before": before, "after": after})

    def _flow(self) -> GradientFlow:
        assert self._batch is not None, "an update follows a step, and that a batch"
        images, labels = self._batch
        return measure_gradient_flow(self._model, masks_of(self._engine), lambda: self._batch_loss(images, labels))

    # --- what is written --------------------------------------------------------------------------------------------

    def _distances(self) -> dict[str, list[float]] | None:
        """NNSTD of each kept topology from the first; None where layers are neither linear nor convolutions of images."""
        steps = sorted(self._snapshots)
        masks = [{name: mask.unpack() for name, mask in self._snapshots[step].items()} for step in steps]
        if len(masks) < 2 or any(mask.dim() not in (2, 4) for mask in masks[0].values()):
            return None
        sources = sources_by_shape(masks[0])
        distances = [topology_distance(masks[0], other, sources).distance for other in masks]
        return {"steps": [float(step) for step in steps], "from_start": distances}

    def _input_strength(self, input_shape: tuple[int, ...]) -> dict[str, Any] | None:
        """Strength of the input pixels, where the first sparse layer reads whole flattened images."""
        first = self._engine.layers[0]
        if len(first.shape) != 2 or first.shape[1] != int(np.prod(input_shape)):
            return None
        weight = dict(self._model.named_parameters()).get(first.name)
        if weight is None:
            return None
        strength = input_strength(weight, self._engine.mask(first.name))
        return {
            "layer": first.name,
            "shape": list(input_shape),
            "values": [float(f"{value:.4g}") for value in strength.tolist()],
        }

    def _write_snapshots(self, file: BinaryIO) -> None:
        steps = sorted(self._snapshots)
        arrays: dict[str, Any] = {"steps": np.array(steps, dtype=np.int64)}
        for name, mask in self._snapshots[steps[0]].items():
            arrays[f"shape {name}"] = np.array(mask.shape, dtype=np.int64)
            arrays[f"words {name}"] = np.stack([self._snapshots[step][name].words for step in steps])
        np.savez_compressed(file, **arrays)


def read_snapshots(folder: RunFolder) -> Snapshots:
    """The topologies that a run kept; empty where it kept none.

    Raises:
        ValueError: If the file is no such record; the message names it.
    """
    if not folder.topology.exists():
        return {}
    try:
        with np.load(folder.topology, allow_pickle=False) as content:
            names = [key.removeprefix("shape ") for key in content.files if key.startswith("shape ")]
            words = {name: content[f"words {name}"] for name in names}
            shapes = {name: tuple(content[f"shape {name}"].tolist()) for name in names}
            return {
                step: {name: PackedMask(shapes[name], words[name][i]) for name in names}
                for i, step in enumerate(content["steps"].tolist())
            }
    except (OSError, ValueError, KeyError, EOFError, IndexError) as error:
        raise ValueError(f"{folder.topology} holds no topologies of a run: {error}") from None


def _curve(survival: SurvivalCurve) -> dict[str, Any]:
    """The curve at no more than 200 ages, evenly spaced among them."""
    count = len(survival.ages)
    kept: Any = (
        np.unique(np.linspace(0, count - 1, min(count, _MAX_CURVE_POINTS)).round().astype(np.int64)) if count else []
    )
    return {
        "ages": [int(survival.ages[i]) for i in kept],
        "survival": [float(survival.survival[i]) for i in kept],
        "standard_error": [float(survival.standard_error[i]) for i in kept],
        "num_at_risk": [int(survival.num_at_risk[i]) for i in kept],
    }
