"""The loss on the way from one seed's network to the next one's, for each point of a study."""

from __future__ import annotations

import itertools
import logging
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itop.analysis.landscape import loss_between_tickets
from itop.analysis.preserving import buffers_kept
from itop.analysis.topology_distance import sources_by_shape, topology_distance
from itop.nn import densify
from itop.studies.results import StudyResults
from itop.training.checkpoint import load_checkpoint
from itop.training.data_source import DataSource
from itop.training.executions import LARGEST_DENSE
from itop.training.files import read_json, write_json
from itop.training.meter import evaluate
from itop.training.outcomes import Outcome
from itop.training.session import Session

__all__ = ["interpolate_study", "read_landscape"]

logger = logging.getLogger(__name__)

_POSITIONS = tuple(i / 10 for i in range(11))
_EVALUATION_BATCH = 256
_MAX_SAMPLES = 5_000
_STATISTICS_BATCHES = 20


def interpolate_study(results: StudyResults) -> tuple[str, ...]:
    """Measures each point's first two complete seeds and writes ``landscape.json``; points measured before are kept.

    The loss is that of 5,000 test images. Running statistics of batch normalisation are renewed on training batches.
    Truly sparse tickets take their dense form, inactive weights as zeros: there a line runs between any two patterns.

    Returns:
        Labels of the points that have been measured, now or before.
    """
    path = results.root / "landscape.json"
    found = read_landscape(results.root)
    source = DataSource()
    for point in results.points:
        pair = [run for run in point.complete if run.folder.last_checkpoint.exists()][:2]
        if point.label in found or len(pair) < 2:
            continue
        if _num_weights(pair[0]) > LARGEST_DENSE:
            logger.warning("%s is left out: the network is too large for its dense form", point.label)
            continue
        found[point.label] = _between(pair[0], pair[1], source)
        write_json(path, found)
    return tuple(point.label for point in results.points if point.label in found)


def read_landscape(root: Path) -> dict[str, Any]:
    """What :func:`interpolate_study` measured, by label of the point; empty where nothing was.

    Raises:
        ValueError: If the file is damaged; the message names it.
    """
    path = root / "landscape.json"
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold losses between tickets")
    return content


def _num_weights(run: Outcome) -> int:
    layers = [] if run.summary is None else run.summary["layers"]
    return sum(math.prod(layer["shape"]) for layer in layers)


def _between(first: Outcome, second: Outcome, source: DataSource) -> dict[str, Any]:
    states, masks = [], []
    for run in (first, second):
        session = Session.build(run.config.replace(probes=0), source)
        session.engine.detach()
        ticket = load_checkpoint(run.folder.last_checkpoint, device=session.device)
        session.model.load_state_dict(ticket.states["model"])
        densify(session.model)
        states.append(session.model.state_dict())
        masks.append(ticket.masks())

    def loss(model: nn.Module) -> float:
        with buffers_kept(model):
            _renew_statistics(model, session)
            loader = session.data.test(_EVALUATION_BATCH, device=session.device)
            batches = itertools.islice(loader, -(-_MAX_SAMPLES // _EVALUATION_BATCH))
            return evaluate(model, batches, session.loss, session.precision, session.device).loss

    path = loss_between_tickets(session.model, states[0], states[1], loss, _POSITIONS, (masks[0], masks[1]))
    return {
        "positions": list(path.positions),
        "losses": list(path.losses),
        "barrier": path.barrier,
        "union_density": path.union_density,
        "distance": topology_distance(masks[0], masks[1], sources_by_shape(masks[0])).distance,
        "seeds": [first.config.seed, second.config.seed],
    }


@torch.no_grad()
def _renew_statistics(model: nn.Module, session: Session) -> None:
    normalising = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if not normalising:
        return
    for module in normalising:
        module.reset_running_stats()
    was_training = model.training
    model.train()
    for images, _ in itertools.islice(session.train_loader.epoch(0), _STATISTICS_BATCHES):
        model(images)
    model.train(was_training)
