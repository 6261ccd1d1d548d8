"""The numbers a run ends with, and what several seeds say together: the content of ``summary.json``."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from itop.analysis.ensembles import EnsembleReport
from itop.analysis.layer import layers_of
from itop.training.environment import describe_environment
from itop.training.meter import Score
from itop.training.session import Session
from itop.training.theory import predicted_exploration

__all__ = ["RunResult", "Spread", "spread_of", "summarise_method", "summarise_run"]


@final
@dataclass(frozen=True, slots=True)
class RunResult:
    """How the finished models score on the test set, which is looked at for nothing else.

    Args:
        last: The model at the end of training.
        best: The model that was best on validation; None where nothing was held out.
        train: The last model on training samples as they are, not augmented: 10,000 of them, where there are more.
        tickets: The networks that the method set aside on the way, together; None where there are not several.
    """

    last: Score
    best: Score | None
    train: Score
    tickets: EnsembleReport | None = None


@final
@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation of some runs; one run has a deviation of 0."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def std(self) -> float:
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def in_percent(self, decimals: int = 2) -> str:
        """For people: ``97.59 ± 0.32 %``; one run has no deviation to show."""
        deviation = f" ± {self.std * 100:.{decimals}f}" if len(self.values) > 1 else ""
        return f"{self.mean * 100:.{decimals}f}{deviation} %"

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "std": self.std, "values": list(self.values)}


def spread_of(described: Mapping[str, Any]) -> Spread:
    """The inverse of :meth:`Spread.to_dict`."""
    return Spread(tuple(described["values"]))


def summarise_run(session: Session, result: RunResult) -> dict[str, Any]:
    """What ``summary.json`` of one run holds; accuracies, rates and densities are fractions in [0, 1]."""
    config, engine = session.config, session.engine
    best = session.best
    return {
        "status": "completed",
        "method": config.method,
        "sparsity": engine.sparsity,
        "target_sparsity": config.sparsity,
        "seeds": [config.seed],
        "test_accuracy": Spread((result.last.accuracy,)).to_dict(),
        "test_loss": Spread((result.last.loss,)).to_dict(),
        "test_accuracy_of_best": None if result.best is None else Spread((result.best.accuracy,)).to_dict(),
        "best_epoch": None if best is None else best.epoch,
        "best_validation_accuracy": None if best is None else best.accuracy,
        "train_accuracy": Spread((result.train.accuracy,)).to_dict(),
        "tickets": None if result.tickets is None else asdict(result.tickets),
        "tickets_accuracy": None if result.tickets is None else Spread((result.tickets.accuracy,)).to_dict(),
        "exploration_rate": engine.exploration_rate,
        "reliable_rate": engine.reliable_rate,
        "predicted_exploration": _prediction(session),
        "num_updates": engine.num_updates,
        "steps": session.position.step,
        "train_flops_ratio": engine.flops().training_factor,
        "test_flops_ratio": engine.flops().forward_factor,
        "seconds": session.seconds,
        "layers": [
            {
                "name": layer.name,
                "shape": list(layer.shape),
                "num_active": layer.num_active,
                "density": layer.density,
                "exploration_rate": layer.exploration_rate,
                "reliable_rate": layer.reliable_rate,
            }
            for layer in session.layer_summaries()
        ],
        "environment": describe_environment(session.device),
    }


def _prediction(session: Session) -> dict[str, float] | None:
    """R_s at the end as theory expects it of random growth, with the standard deviation of one run."""
    curve = predicted_exploration(session.method, layers_of(session.engine), session.total_steps)
    return None if curve is None else {"rate": curve.final_rate, "standard_error": curve.monte_carlo_error()}


_SPREADS = ("test_accuracy", "test_loss", "test_accuracy_of_best", "train_accuracy", "tickets_accuracy")
_MEANS = (
    "sparsity",
    "exploration_rate",
    "reliable_rate",
    "num_updates",
    "steps",
    "train_flops_ratio",
    "test_flops_ratio",
    "seconds",
)


def summarise_method(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One method over its seeds: accuracies with their spread, everything else as the mean.

    Args:
        runs: Summaries of single runs of the same method, at least one.
    """
    first = runs[0]
    summary: dict[str, Any] = {
        "status": "completed",
        "method": first["method"],
        "target_sparsity": first["target_sparsity"],
        "seeds": [seed for run in runs for seed in run["seeds"]],
    }
    for name in _SPREADS:
        values = [value for run in runs if run.get(name) is not None for value in run[name]["values"]]
        summary[name] = Spread(tuple(values)).to_dict() if values else None
    for name in _MEANS:
        known = [run[name] for run in runs if run[name] is not None]
        summary[name] = statistics.fmean(known) if known else None
    return summary | {"environment": first["environment"]}
