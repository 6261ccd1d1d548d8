"""Everything one run is made of, built from its configuration and restored from its checkpoint."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itop import SparseEngine
from itop.allocation import target_count
from itop.data import BatchLoader, DataSet
from itop.methods import METHODS, Method
from itop.names import unknown_name
from itop.training.averaging import check_averaging
from itop.training.checkpoint import Checkpoint, CheckpointError, LayerSummary
from itop.training.config import RunConfig
from itop.training.data_source import DataSource
from itop.training.execution import Precision, resolve_device, resolve_precision
from itop.training.executions import EXECUTIONS, LARGEST_DENSE
from itop.training.instruments import Instruments
from itop.training.meter import Batch, Meter
from itop.training.optimizers import build_optimizer
from itop.training.randomness import random_state, restore_random_state, seed_everything

__all__ = ["BestModel", "Position", "Session", "build_method", "method_options"]


@dataclass(slots=True)
class Position:
    """Where training stands.

    Attributes:
        epoch: Epochs completed, over all rounds.
        batch: Batches done of the epoch after those.
        step: Optimiser steps in all.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0


@final
@dataclass(frozen=True, slots=True)
class BestModel:
    """The model of the best epoch on validation so far, among the epochs at the density nearest to the target from above.

    A method on its way from dense to sparse would otherwise be credited with its dense model. Below the target one
    density is as good as another.
    """

    epoch: int
    accuracy: float
    num_active: int
    model: Mapping[str, Tensor]
    engine: Mapping[str, Any]
    layers: tuple[LayerSummary, ...]

    def is_beaten_by(self, accuracy: float, num_active: int, target: int) -> bool:
        """Whether a model of `num_active` weights, of which the run aims at `target`, is to be preferred."""
        before, now = max(self.num_active, target), max(num_active, target)
        # A method that redistributes may be off by a few connections; that is no step towards its final density.
        if now < 0.99 * before:
            return True
        return accuracy > self.accuracy and now <= 1.01 * before

    def state_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "accuracy": self.accuracy,
            "num_active": self.num_active,
            "model": dict(self.model),
            "engine": dict(self.engine),
            "layers": [asdict(layer) for layer in self.layers],
        }

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> BestModel:
        layers = tuple(LayerSummary(**{**layer, "shape": tuple(layer["shape"])}) for layer in state["layers"])
        return cls(**{**state, "layers": layers})


def method_options(name: str) -> dict[str, inspect.Parameter]:
    """The options that preset `name` takes, by name; empty for one that takes none."""
    parameters = inspect.signature(METHODS[name]).parameters
    return {key: value for key, value in parameters.items() if value.kind is not inspect.Parameter.VAR_KEYWORD}


def build_method(config: RunConfig) -> Method:
    """The configured method as a value.

    Raises:
        ValueError: If it does not know one of the options, or refuses its value.
    """
    options = method_options(config.method)
    for key in config.method_options:
        if key not in options:
            raise ValueError(unknown_name(f"option of method {config.method}:", key, options))
        _check_kind(config.method, options[key], config.method_options[key])
    try:
        return METHODS[config.method](**config.method_options)
    except TypeError as error:
        raise ValueError(f"method {config.method!r} refuses its options: {error}") from None


def _check_kind(method: str, option: inspect.Parameter, value: object) -> None:
    """Refuses text where the default is a number, numbers where it is yes or no, and nothing where there has to be something."""
    name, default = option.name, option.default
    if value is None and "None" in str(option.annotation):
        return
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise ValueError(f"option {name} of method {method} must be true or false, got {value!r}")
    elif isinstance(default, (int, float)) and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"option {name} of method {method} must be a number, got {value!r}")


@dataclass(slots=True)
class Session:
    """A run in memory.

    Attributes:
        forward: The model as training calls it: compiled where the configuration says so.
    """

    config: RunConfig
    device: torch.device
    precision: Precision
    data: DataSet
    train_loader: BatchLoader
    model: nn.Module
    forward: Callable[[Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    method: Method
    engine: SparseEngine
    loss: Callable[[Tensor, Tensor], Tensor]
    meter: Meter
    instruments: Instruments
    position: Position = field(default_factory=Position)
    best: BestModel | None = None
    seconds: float = 0.0

    @classmethod
    def build(cls, config: RunConfig, source: DataSource) -> Session:
        """Everything at its start, a pure function of the configuration.

        Raises:
            ValueError: If something in it cannot be had; nothing has been written then.
        """
        device = resolve_device("cpu" if config.execution == "sparse" and config.device == "auto" else config.device)
        if config.execution == "sparse" and device.type != "cpu":
            raise ValueError(f"execution 'sparse' computes on the CPU, got device {config.device!r}")
        precision = resolve_precision(config.amp, device)
        method = build_method(config)
        data = source.get(config)
        seed_everything(config.seed)
        model = EXECUTIONS[config.execution](config, method, data).to(device)
        if device.type == "cuda" and any(parameter.ndim == 4 for parameter in model.parameters()):
            model = model.to(memory_format=torch.channels_last)
        loader = data.train(
            config.batch_size, device=device, augment=config.augment, seed=config.seed, workers=config.workers
        )
        if len(loader) == 0:
            raise ValueError(
                f"batch_size {config.batch_size} leaves no batch in an epoch of the {data.num_train} training images of "
                f"{config.data}; take a smaller one"
            )
        optimizer = build_optimizer(config, model, method)
        loss = functools.partial(F.cross_entropy, label_smoothing=config.label_smoothing)
        total_steps = _total_steps(config, loader)
        method = method.for_loop(len(loader))
        engine = SparseEngine(
            model,
            optimizer,
            method,
            sparsity=config.sparsity,
            allocation=config.allocation,
            total_steps=total_steps,
            include=config.include,
            exclude=config.exclude,
            seed=config.seed,
            batches=functools.partial(_endless, loader),
            loss=loss,
        )

        check_averaging(optimizer, engine, num_validation=data.num_validation)

        # Instruments look at whole masks, which beyond a size no memory holds.
        num_probes = config.probes if sum(layer.numel for layer in engine.layers) <= LARGEST_DENSE else 0

        def batch_loss(images: Tensor, labels: Tensor) -> Tensor:
            with precision.autocast():
                return loss(model(images), labels)

        return cls(
            config=config,
            device=device,
            precision=precision,
            data=data,
            train_loader=loader,
            model=model,
            forward=torch.compile(model) if config.compile else model,
            optimizer=optimizer,
            scaler=precision.make_scaler(),
            method=method,
            engine=engine,
            loss=loss,
            meter=Meter(device),
            instruments=Instruments(engine, model, method, batch_loss, total_steps=total_steps, num_probes=num_probes),
        )

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_loader)

    @property
    def total_steps(self) -> int:
        return _total_steps(self.config, self.train_loader)

    def layer_summaries(self) -> list[LayerSummary]:
        return [
            LayerSummary(layer.name, tuple(layer.shape), layer.num_active, layer.num_explored, layer.num_reliable)
            for layer in self.engine.layers
        ]

    def checkpoint(self, *, metrics_bytes: int) -> Checkpoint:
        """The whole session as a value; `metrics_bytes` is how far its ``metrics.jsonl`` has been written."""
        states: dict[str, Any] = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "engine": self.engine.state_dict(),
            "scaler": self.scaler.state_dict(),
            "random": random_state(),
            "meter": self.meter.state_dict(),
            "instruments": self.instruments.state_dict(),
            "best": None if self.best is None else self.best.state_dict(),
            "seconds": self.seconds,
            "metrics_bytes": metrics_bytes,
        }
        position = {"epoch": self.position.epoch, "batch": self.position.batch, "step": self.position.step}
        return Checkpoint(self.config.to_dict(), position, self.layer_summaries(), states)

    def keep_best(self, accuracy: float) -> None:
        """Remembers the model as it is if none before, by `accuracy` on validation, was better."""
        num_active = sum(layer.num_active for layer in self.engine.layers)
        target = target_count(sum(layer.numel for layer in self.engine.layers), self.config.sparsity)
        if self.best is None or self.best.is_beaten_by(accuracy, num_active, target):
            model = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
            engine = copy.deepcopy(self.engine.state_dict())
            layers = tuple(self.layer_summaries())
            self.best = BestModel(self.position.epoch, accuracy, num_active, model, engine, layers)

    def best_checkpoint(self) -> Checkpoint:
        """The best model with its topology, to look at or to export; training goes on from the last one."""
        assert self.best is not None, "something was held out for validation"
        position = {"epoch": self.best.epoch, "batch": 0, "step": self.best.epoch * self.steps_per_epoch}
        states = {"model": dict(self.best.model), "engine": dict(self.best.engine)}
        return Checkpoint(self.config.to_dict(), position, self.best.layers, states)

    def restore(self, checkpoint: Checkpoint) -> int:
        """Goes to where `checkpoint` was taken; returns how long its ``metrics.jsonl`` was then, in bytes.

        Raises:
            CheckpointError: If it is of another run.
        """
        states = checkpoint.states
        try:
            self.model.load_state_dict(states["model"])
            self.optimizer.load_state_dict(states["optimizer"])
            self.engine.load_state_dict(states["engine"])
            self.scaler.load_state_dict(states["scaler"])
            self.meter.load_state_dict(states["meter"])
            self.instruments.load_state_dict(states.get("instruments", {}))
            self.position = Position(**checkpoint.position)
            self.best = None if states["best"] is None else BestModel.from_state_dict(states["best"])
            self.seconds = float(states["seconds"])
            restore_random_state(states["random"])
            return int(states["metrics_bytes"])
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise CheckpointError(f"the checkpoint is not of this run: {reason}") from None


def _total_steps(config: RunConfig, loader: BatchLoader) -> int:
    steps = config.num_epochs * len(loader)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def _endless(loader: BatchLoader) -> Iterator[Batch]:
    for epoch in count():
        yield from loader.epoch(epoch)
