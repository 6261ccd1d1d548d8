"""The paper's studies by name, each for every recipe and at any scale.

A study at a scale keeps the recipe's network, data and sparsity and shortens the training: ``scale`` multiplies the epochs,
and where that would leave fewer than three, the training set is thinned instead. Update intervals are chosen by the number
of updates they leave room for, so that every scale runs from a few updates to many.

Reference:
    Liu et al., Do We Actually Need Dense Over-Parameterization?, ICML 2021, sections 4 and 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from itop.studies.cell import Cell
from itop.studies.grid import axis_named, grid_cells
from itop.studies.study import Axis, Study
from itop.training.config import JsonValue, RunConfig
from itop.training.published import PUBLISHED

__all__ = ["STUDIES", "NamedStudy", "Setting", "scaled", "steps_of", "training_samples"]

_FEWEST_EPOCHS = 3
_PAPER_UPDATES = 59
"""The paper's 88,000 iterations at dT 1500, with random growth."""
_PAPER_GRADIENT_UPDATES = 22
"""The same at dT 4000, with growth by gradient."""


@final
@dataclass(frozen=True, slots=True)
class Setting:
    """What a study is made for.

    Args:
        base: The recipe's configuration, scaled; its method is not used.
        seeds: Of every point.
        samples: Training samples of the whole set, before any is held out. None: the known size of the data set.
        methods: What to study instead of the study's own choice.
        baselines: Whether dense and static training are run to compare with.
    """

    base: RunConfig
    seeds: Sequence[int] = (0, 1, 2)
    samples: int | None = None
    methods: tuple[str, ...] | None = None
    baselines: bool = True
    options: Mapping[str, JsonValue] = field(default_factory=dict)

    def total_steps(self, base: RunConfig | None = None) -> int:
        """Optimiser steps of a run."""
        return steps_of(base or self.base, self.samples)

    def interval(self, num_updates: float, base: RunConfig | None = None) -> int:
        """The update interval that gives about `num_updates` updates, at least 1."""
        return max(1, round(self.total_steps(base) / num_updates))

    def cells(
        self, axes: Mapping[str, Sequence[JsonValue]], *, base: RunConfig | None = None, **options: JsonValue
    ) -> tuple[Cell, ...]:
        return grid_cells(base or self.base, axes, seeds=self.seeds, options={**options, **self.options})

    def references(
        self, methods: Sequence[str] = ("static", "dense"), axes: Mapping[str, Sequence[JsonValue]] | None = None
    ) -> tuple[Cell, ...]:
        """Cells to compare with; none where they are not wanted."""
        if not self.baselines:
            return ()
        return grid_cells(self.base, {"method": list(methods), **(axes or {})}, seeds=self.seeds, is_baseline=True)


@final
@dataclass(frozen=True, slots=True)
class NamedStudy:
    """A study that can be made for any recipe.

    Args:
        title: For people.
        question: What is asked.
        axis: What is drawn to the right.
        make: Its cells.
    """

    title: str
    question: str
    axis: Axis | None
    make: Callable[[Setting], tuple[Cell, ...]]

    def plan(self, name: str, setting: Setting) -> Study:
        """The study of a setting; cells that come to the same run are one."""
        cells: dict[str, Cell] = {}
        for cell in self.make(setting):
            cells.setdefault(cell.identity, cell)
        varying = [axis for cell in cells.values() for axis in cell.axes]
        series = tuple(axis for axis in dict.fromkeys(varying) if self.axis is None or axis != self.axis.name)
        title = f"{self.title}: {setting.base.model} on {setting.base.data}"
        return Study(name, title, self.question, self.axis, series, tuple(cells.values()))


def scaled(config: RunConfig, scale: float) -> RunConfig:
    """The configuration with `scale` times its training.

    Args:
        scale: In (0, 1]: epochs are multiplied by it, but at least three are kept (or the recipe's own, if fewer); what
            that leaves over is taken from the training set.

    Raises:
        ValueError: If `scale` is outside its range.
    """
    if not 0.0 < scale <= 1.0:
        raise ValueError(f"scale must be in (0, 1], got {scale}")
    wanted = config.epochs * scale
    epochs = max(round(wanted), min(config.epochs, _FEWEST_EPOCHS))
    fraction = min(1.0, config.train_fraction * wanted / epochs) if wanted < min(config.epochs, _FEWEST_EPOCHS) else 1.0
    warmup = min(config.warmup_epochs * scale, epochs / 4)
    return config.replace(
        epochs=epochs, train_fraction=config.train_fraction if fraction == 1.0 else fraction, warmup_epochs=warmup
    )


def steps_of(config: RunConfig, samples: int | None = None) -> int:
    """Optimiser steps of a run.

    Args:
        config: Of the run.
        samples: Training samples before any is held out; None takes the known size of a published data set.

    Raises:
        ValueError: If the size is not known.
    """
    steps = -(-training_samples(config, samples) // config.batch_size) * config.num_epochs
    return steps if config.max_steps is None else min(steps, config.max_steps)


def training_samples(config: RunConfig, samples: int | None = None) -> int:
    """Samples of an epoch: what is left of the training set after validation and ``train_fraction``.

    Args:
        config: Of the run.
        samples: The whole training set; None takes the known size of a published data set.

    Raises:
        ValueError: If the size is not known.
    """
    if samples is None:
        if config.data not in PUBLISHED:
            raise ValueError(f"the number of training samples of {config.data!r} must be given: it is no published set")
        samples = PUBLISHED[config.data].training_samples
    held_out = max(1, round(samples * config.validation_fraction)) if config.validation_fraction > 0 else 0
    return round((samples - held_out) * config.train_fraction)


def _typical_time(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop",))
    intervals = [setting.interval(updates) for updates in (512, 128, 32, 8, 2)]
    return setting.cells({"method": methods, "update_every": intervals}) + setting.references()


def _extended_time(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop",))
    times = [1.0, 2.0, 3.0, 4.0, 5.0]
    # The interval stays while the training grows: that is what adds updates.
    every = setting.interval(_PAPER_UPDATES)
    return setting.cells({"method": methods, "multiplier": times}, update_every=every) + setting.references(
        axes={"multiplier": times}
    )


def _batch_size(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop",))
    sizes = sorted({max(4, round(setting.base.batch_size * factor)) for factor in (0.25, 0.5, 1, 2, 4)})
    every = setting.interval(_PAPER_UPDATES)
    return setting.cells({"method": methods, "batch_size": sizes}, update_every=every) + setting.references(
        axes={"batch_size": sizes}
    )


def _drop_fraction(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop",))
    fractions = [0.1, 0.3, 0.5, 0.7, 0.9]
    every = setting.interval(_PAPER_UPDATES)
    return setting.cells({"method": methods, "drop_fraction": fractions}, update_every=every) + setting.references()


def _growth_rule(setting: Setting) -> tuple[Cell, ...]:
    intervals = [setting.interval(updates) for updates in (128, 32, 8)]
    if setting.methods is not None:
        return setting.cells({"method": list(setting.methods), "update_every": intervals}) + setting.references()
    rules = setting.cells(
        {"method": ["set-itop", "rigl-itop"], "unexplored_first": [False, True], "update_every": intervals}
    )
    return rules + setting.references()


def _methods(setting: Setting) -> tuple[Cell, ...]:
    if setting.methods is not None:
        return setting.cells({"method": list(setting.methods)})
    random = setting.cells({"method": ["set-itop"]}, update_every=setting.interval(_PAPER_UPDATES))
    gradient = setting.cells({"method": ["rigl-itop"]}, update_every=setting.interval(_PAPER_GRADIENT_UPDATES))
    others = setting.cells({"method": ["dense", "static", "snip", "grasp", "synflow"]})
    # Pruning on the way keeps its own interval where there is room for as many updates as the others make.
    gradual = setting.cells({"method": ["gmp"]}, update_every=min(100, setting.interval(_PAPER_UPDATES)))
    return random + gradient + others + gradual + setting.cells({"method": ["lth"]})


def _overfitting(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop", "static"))
    sparsities = [0.5, 0.8, 0.9, 0.95, 0.98]
    every = setting.interval(_PAPER_UPDATES)
    return setting.cells({"method": methods, "sparsity": sparsities}, update_every=every) + setting.references(
        ("dense",)
    )


def _extreme_sparsity(setting: Setting) -> tuple[Cell, ...]:
    methods = list(setting.methods or ("set-itop", "rigl-itop", "static"))
    sparsities = [0.9, 0.95, 0.98, 0.99, 0.995]
    every = setting.interval(_PAPER_UPDATES)
    return setting.cells({"method": methods, "sparsity": sparsities}, update_every=every) + setting.references(
        ("dense",)
    )


_INTERVAL = axis_named("update_every")

STUDIES: dict[str, NamedStudy] = {
    "typical-time": NamedStudy(
        "Typical training time",
        "At a fixed number of epochs, how do accuracy and exploration depend on the update interval? A short interval "
        "explores many weights unreliably, a long one few weights reliably.",
        _INTERVAL,
        _typical_time,
    ),
    "extended-time": NamedStudy(
        "Extended training time",
        "At a fixed update interval, what do more epochs bring, through more updates, beyond what they bring anyway?",
        axis_named("multiplier"),
        _extended_time,
    ),
    "batch-size": NamedStudy(
        "Batch size",
        "At a fixed number of epochs and a fixed update interval, smaller batches give more updates. What do they bring?",
        axis_named("batch_size"),
        _batch_size,
    ),
    "drop-fraction": NamedStudy(
        "Drop fraction",
        "How much of its weights should an update replace at first?",
        axis_named("drop_fraction"),
        _drop_fraction,
    ),
    "growth-rule": NamedStudy(
        "Growth rule",
        "Random growth, growth by gradient, and both with weights that were never explored taken first: which explores "
        "more, and which is more accurate, at the same number of updates?",
        _INTERVAL,
        _growth_rule,
    ),
    "methods": NamedStudy(
        "Methods",
        "Sparse training that explores, against pruning at initialisation, pruning on the way, lottery tickets, a fixed "
        "topology and dense training.",
        None,
        _methods,
    ),
    "overfitting": NamedStudy(
        "Overfitting",
        "How far apart are training and test accuracy at different sparsities, with and without exploration?",
        axis_named("sparsity"),
        _overfitting,
    ),
    "extreme-sparsity": NamedStudy(
        "Extreme sparsity",
        "How far does exploration carry when very few weights are left?",
        axis_named("sparsity"),
        _extreme_sparsity,
    ),
}
"""The studies of the paper by name."""
