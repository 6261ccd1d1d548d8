"""The complete description of one training run.

A :class:`RunConfig` is a value: two runs of the same configuration on the same device give the same masks. It is what
``config.json`` in a run folder holds, and it refuses what cannot be run before anything is built.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, final

from itop.data import canonical_dataset_name
from itop.methods import METHODS
from itop.models import canonical_model_name
from itop.names import require_known, unknown_name
from itop.training.learning_rates import Constant, Cosine, LearningRateSchedule, Milestones, WarmUp
from itop.training.optimizers import OPTIMIZERS

__all__ = [
    "ALLOCATIONS",
    "AMP_MODES",
    "EXECUTION_NAMES",
    "FIELDS",
    "LR_SCHEDULES",
    "JsonValue",
    "RunConfig",
    "shared_fields",
]

JsonValue: TypeAlias = bool | int | float | str | list[Any] | dict[str, Any] | None

LR_SCHEDULES = ("constant", "milestones", "cosine")
EXECUTION_NAMES = ("masked", "sparse")
AMP_MODES = ("off", "auto", "bfloat16", "float16")
ALLOCATIONS = ("erk", "er", "uniform")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """One run: what is trained, by which method, on what, how long.

    Args:
        method: A preset of ``itop.methods.METHODS``.
        method_options: Options of that preset, by their names.
        sparsity: Of all sparsifiable weights together, in [0, 1).
        allocation: How density is spread over layers: ``"erk"``, ``"er"``, ``"uniform"`` or ``{layer: sparsity}``;
            None is the method's own way.
        include: Globs of the parameters to sparsify; None takes every weight the engine sparsifies by itself.
        exclude: Globs of parameters to leave dense.
        model: A network that ``itop.models.build_model`` knows; kept by its canonical name.
        data: A data set that ``itop.data.load_dataset`` knows; kept by its canonical name.
        data_root: The folder the data is in; None where the data set needs none.
        download: Whether data that is not there may be fetched.
        image_size: Side in pixels to which the images of a folder are resized; None keeps them.
        validation_fraction: Share of the training set held out to choose the best epoch, in [0, 1). At 0 there is no
            validation and only the last model is reported.
        train_fraction: Share of what is left for training that is used, in (0, 1]: a smaller training set of the same
            classes, scored on the same validation and test images.
        augment: Whether training images are augmented as the data set's recipe says.
        epochs: Passes over the training set before the multiplier, at least 1.
        max_steps: Optimiser steps after which the run ends even so; schedules see a run of that length. None: no such
            limit.
        multiplier: Extended training (PAPER section 2): stretches epochs, learning-rate milestones and the horizon of
            the method's schedules at the same update interval. Above 0.
        batch_size: Images in a step, at least 1.
        optimizer: An optimiser of ``itop.training.optimizers.OPTIMIZERS``.
        learning_rate: Base rate, above 0.
        lr_fan_in: Active inputs of a neuron up to which a layer learns at `learning_rate`; one of more inputs learns
            slower in that proportion. One step moves a sum over so many inputs by the more the more there are, which
            in networks of very different layers leaves no single rate that is right. None: one rate for all.
        momentum: Of SGD, in [0, 1); adaptive optimisers ignore it.
        nesterov: Whether SGD's momentum looks ahead.
        weight_decay: At least 0.
        decay_vectors: Whether biases and normalisation weights decay as well.
        label_smoothing: In [0, 1).
        gradient_clip: Largest norm of the whole gradient; None does not clip.
        lr_schedule: ``"constant"``, ``"milestones"`` or ``"cosine"``.
        lr_milestones: Fractions of the run where ``"milestones"`` multiplies the rate by `lr_gamma`.
        lr_gamma: See `lr_milestones`.
        warmup_epochs: Epochs of linear warm-up; not stretched by the multiplier.
        seed: Of initial weights, masks, growth, data order and augmentation, at least 0.
        device: ``"auto"`` takes the first CUDA device, else the CPU; or any name torch knows.
        execution: ``"masked"``: dense weights with exact zeros, on any device. ``"sparse"``: values and positions of active
            weights only, on the CPU.
        amp: Mixed precision: ``"off"``, ``"bfloat16"``, ``"float16"``, or ``"auto"`` for what suits the device.
        compile: Whether the forward pass goes through ``torch.compile``.
        workers: Processes that load images, for data sets that do not fit into memory.
        threads: Threads of torch and of the core on the CPU; None leaves torch's own choice. Part of the configuration
            because torch's sums depend on it in their last bits, and because one is fastest for small networks.
        checkpoint_seconds: A checkpoint is written after the first step after so many seconds, and always at the end
            and on interruption; 0 writes one at the end of every epoch instead.
        probes: Moments of the run, evenly spaced, at which its topology is kept and the gradient flow around the next
            update is measured; 0 looks at nothing but losses and rates.
        recipe: The recipe this came from, for the record.

    Raises:
        ValueError: If a field is outside its range or of another type; the message names it.
    """

    method: str = "set-itop"
    method_options: Mapping[str, JsonValue] = field(default_factory=dict)
    sparsity: float = 0.9
    allocation: str | Mapping[str, float] | None = None
    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    model: str = "mlp"
    data: str = "digits"
    data_root: str | None = None
    download: bool = False
    image_size: int | None = None
    validation_fraction: float = 0.1
    train_fraction: float = 1.0
    augment: bool = True
    epochs: int = 10
    max_steps: int | None = None
    multiplier: float = 1.0
    batch_size: int = 128
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    lr_fan_in: float | None = None
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decay_vectors: bool = True
    label_smoothing: float = 0.0
    gradient_clip: float | None = None
    lr_schedule: str = "milestones"
    lr_milestones: tuple[float, ...] = (0.5, 0.75)
    lr_gamma: float = 0.1
    warmup_epochs: float = 0.0
    seed: int = 0
    device: str = "auto"
    execution: str = "masked"
    amp: str = "off"
    compile: bool = False
    workers: int = 0
    threads: int | None = None
    checkpoint_seconds: float = 30.0
    probes: int = 8
    recipe: str | None = None

    def __post_init__(self) -> None:
        require_known("method", self.method, METHODS)
        self._canonical_names()
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("lr_schedule", self.lr_schedule, LR_SCHEDULES)
        require_known("amp", self.amp, AMP_MODES)
        require_known("execution", self.execution, EXECUTION_NAMES)
        self._check_numbers()
        self._check_types()
        self._check_allocation()
        self.schedule()

    def _canonical_names(self) -> None:
        for name, canonical in (("model", canonical_model_name), ("data", canonical_dataset_name)):
            value = getattr(self, name)
            if not isinstance(value, str):
                raise ValueError(f"{name} must be a name, got {value!r}")
            object.__setattr__(self, name, canonical(value))

    def _check_numbers(self) -> None:
        self._number("sparsity", low=0, below=1)
        self._number("validation_fraction", low=0, below=1)
        self._number("train_fraction", above=0, high=1)
        self._number("multiplier", above=0)
        self._number("learning_rate", above=0)
        self._number("momentum", low=0, below=1)
        self._number("weight_decay", low=0)
        self._number("label_smoothing", low=0, below=1)
        self._number("lr_gamma", above=0, high=1)
        self._number("warmup_epochs", low=0)
        self._number("checkpoint_seconds", low=0)
        for name in ("gradient_clip", "lr_fan_in"):
            if getattr(self, name) is not None:
                self._number(name, above=0)
        for name, low in (("epochs", 1), ("batch_size", 1), ("seed", 0), ("workers", 0), ("probes", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ValueError(f"{name} must be a whole number of at least {low}, got {value!r}")
        for name in ("image_size", "threads", "max_steps"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")

    def _number(
        self,
        name: str,
        *,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
        below: float | None = None,
    ) -> None:
        value = getattr(self, name)
        left = f"[{low:g}" if low is not None else f"({above:g}" if above is not None else "(-inf"
        right = f"{high:g}]" if high is not None else f"{below:g})" if below is not None else "inf)"
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if (
            not is_number
            or (low is not None and value < low)
            or (above is not None and value <= above)
            or (high is not None and value > high)
            or (below is not None and value >= below)
        ):
            raise ValueError(f"{name} must be in {left}, {right}, got {value!r}")
        object.__setattr__(self, name, float(value))

    def _check_types(self) -> None:
        for name in ("download", "augment", "nesterov", "decay_vectors", "compile"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not isinstance(self.device, str) or not self.device:
            raise ValueError(f"device must be a name like 'auto', 'cpu' or 'cuda:0', got {self.device!r}")
        for name in ("data_root", "recipe"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be text or nothing, got {value!r}")
        if self.include is not None:
            object.__setattr__(self, "include", self._texts("include", self.include))
        object.__setattr__(self, "exclude", self._texts("exclude", self.exclude))
        milestones = self.lr_milestones
        if not isinstance(milestones, (list, tuple)) or not all(_is_real(value) for value in milestones):
            raise ValueError(f"lr_milestones must be fractions of the run, got {milestones!r}")
        object.__setattr__(self, "lr_milestones", tuple(float(value) for value in milestones))
        options = self.method_options
        if not isinstance(options, Mapping) or not all(isinstance(key, str) for key in options):
            raise ValueError(f"method_options must map names to values, got {options!r}")
        object.__setattr__(self, "method_options", dict(options))

    @staticmethod
    def _texts(name: str, values: object) -> tuple[str, ...]:
        if isinstance(values, (list, tuple)) and all(isinstance(value, str) for value in values):
            return tuple(values)
        raise ValueError(f"{name} must be a list of globs, got {values!r}")

    def _check_allocation(self) -> None:
        if self.allocation is None:
            return
        if isinstance(self.allocation, str):
            require_known("allocation", self.allocation, ALLOCATIONS)
            return
        if not isinstance(self.allocation, Mapping):
            raise ValueError(f"allocation must be a name or map layers to sparsities, got {self.allocation!r}")
        for layer, sparsity in self.allocation.items():
            if not _is_real(sparsity) or not 0 <= sparsity <= 1:
                raise ValueError(f"allocation of layer {layer!r} must be in [0, 1], got {sparsity!r}")
        frozen = {str(layer): float(sparsity) for layer, sparsity in self.allocation.items()}
        object.__setattr__(self, "allocation", frozen)

    @property
    def num_epochs(self) -> int:
        """Epochs of the run with the multiplier applied, at least 1."""
        return max(1, round(self.epochs * self.multiplier))

    def schedule(self) -> LearningRateSchedule:
        """The learning-rate schedule over the whole run.

        Raises:
            ValueError: If the milestones are no increasing fractions, or the warm-up is as long as the run.
        """
        schedules: dict[str, LearningRateSchedule] = {
            "constant": Constant(),
            "milestones": Milestones(self.lr_milestones, self.lr_gamma),
            "cosine": Cosine(),
        }
        schedule = schedules[self.lr_schedule]
        if self.warmup_epochs == 0:
            return schedule
        if self.warmup_epochs >= self.num_epochs:
            raise ValueError(f"warmup_epochs must be below the {self.num_epochs} epochs, got {self.warmup_epochs:g}")
        return WarmUp(schedule, self.warmup_epochs / self.num_epochs)

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with some fields changed, checked again.

        Raises:
            ValueError: If a name is no field, or a value is refused.
        """
        for name in changes:
            if name not in FIELDS:
                raise ValueError(unknown_name("configuration field", name, FIELDS))
        return dataclasses.replace(self, **changes)

    def to_dict(self) -> dict[str, JsonValue]:
        """Plain JSON values, field by field."""
        return {name: _plain(getattr(self, name)) for name in FIELDS}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunConfig:
        """The configuration that :meth:`to_dict` described.

        Raises:
            ValueError: If a key is no field, or a value is refused.
        """
        return cls().replace(**values)

    def save(self, path: Path) -> None:
        """Writes the configuration as JSON."""
        path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> RunConfig:
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no run configuration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is not JSON: {error}") from None
        except RecursionError:
            raise ValueError(f"{path} is nested too deeply to be a run configuration") from None
        if not isinstance(values, dict):
            raise ValueError(f"{path} is no run configuration: expected an object, got {type(values).__name__}")
        try:
            return cls.from_dict(values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


FIELDS: tuple[str, ...] = tuple(entry.name for entry in dataclasses.fields(RunConfig))


def _is_real(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: Any) -> JsonValue:
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value  # type: ignore[no-any-return]


def shared_fields(configs: Sequence[RunConfig]) -> dict[str, Any]:
    """The fields of several configurations as one, with a list where they differ."""
    described = [config.to_dict() for config in configs]
    shared: dict[str, Any] = {}
    for name, value in described[0].items():
        values: list[Any] = []
        for other in described:
            if other[name] not in values:
                values.append(other[name])
        shared[name] = value if len(values) == 1 else values
    return shared
