"""Several methods and seeds, one after the other, in one folder.

The folder of an experiment holds ``experiment.json`` (its runs), one sub-folder a method and in it one a seed; a single
run has the experiment's folder to itself. Every level has a ``summary.json``; the report is at the top.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from itop.methods import UnsuitableModelError
from itop.names import unknown_name
from itop.training.config import JsonValue, RunConfig
from itop.training.data_source import DataSource
from itop.training.execution import resolve_device
from itop.training.files import read_json, write_json
from itop.training.interruption import StopRequest
from itop.training.loop import train_session
from itop.training.observers import TrainingObserver
from itop.training.run_folder import RunFolder
from itop.training.session import Session, build_method, method_options
from itop.training.summary import summarise_method

__all__ = ["Experiment", "ExperimentResult", "plan_experiment", "run_experiment"]


@final
@dataclass(frozen=True, slots=True)
class Experiment:
    """Runs that belong together: each method with each seed.

    Args:
        runs: At least one; no method and seed twice.
    """

    runs: tuple[RunConfig, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise ValueError("an experiment needs at least one run, got none")
        keys = [(run.method, run.seed) for run in self.runs]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"method {key[0]!r} with seed {key[1]} is there twice")

    @property
    def methods(self) -> tuple[str, ...]:
        """In the order they are run and shown."""
        return tuple(dict.fromkeys(run.method for run in self.runs))

    def folder_of(self, run: RunConfig, root: Path) -> Path:
        """Where `run` lives under the experiment's folder `root`."""
        return root if len(self.runs) == 1 else root / run.method / f"seed-{run.seed}"

    def save(self, root: Path) -> None:
        write_json(root / "experiment.json", {"runs": [run.to_dict() for run in self.runs]})

    @classmethod
    def load(cls, root: Path) -> Experiment:
        """Reads the experiment in folder `root`; a single run's folder is one too.

        Raises:
            FileNotFoundError: If the folder is none of an experiment.
            ValueError: If its description is not usable.
        """
        path = root / "experiment.json"
        if not path.exists():
            config = RunFolder(root).config
            if not config.exists():
                raise FileNotFoundError(f"{root} is no run folder: it has neither experiment.json nor config.json")
            return cls((RunConfig.load(config),))
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("runs"), list):
            raise ValueError(f"{path} does not list any runs")
        try:
            return cls(tuple(RunConfig.from_dict(run) for run in content["runs"]))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: {error}") from None


def plan_experiment(
    base: RunConfig,
    *,
    methods: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, JsonValue],
    defaults: Mapping[str, JsonValue] | None = None,
) -> Experiment:
    """One run for each method and seed.

    Args:
        base: What all runs share.
        methods: Presets.
        seeds: Of the runs of each method.
        options: Method options; each must be known to at least one of the methods and goes to those that know it.
        defaults: Options that are not missed where no method knows them.

    Raises:
        ValueError: If no method knows an option, or a method is unknown.
    """
    runs = [base.replace(method=method, seed=seed) for seed in seeds for method in methods]
    known = {method: method_options(method) for method in methods}
    for key in options:
        if not any(key in names for names in known.values()):
            every = {name for names in known.values() for name in names}
            raise ValueError(unknown_name(f"option of {', '.join(methods)}:", key, every))
    offered = {**(defaults or {}), **base.method_options, **options}
    return Experiment(
        tuple(
            run.replace(method_options={key: value for key, value in offered.items() if key in known[run.method]})
            for run in runs
        )
    )


@final
@dataclass(frozen=True, slots=True)
class ExperimentResult:
    """What came out.

    Args:
        summaries: One of each method that has at least one complete run, over its seeds.
        failures: Why runs could not be completed, by ``method, seed n``.
        skipped: Why methods were left out, by method: the model has nothing for them to work on.
    """

    summaries: tuple[Mapping[str, Any], ...]
    failures: Mapping[str, str]
    skipped: Mapping[str, str]


def run_experiment(
    experiment: Experiment,
    root: Path,
    *,
    observer: TrainingObserver | None = None,
    stop: StopRequest | None = None,
    resume: bool = False,
) -> ExperimentResult:
    """Trains all runs; with `resume` those that are complete are not repeated, the others go on where they were.

    A run that fails does not stop those after it, unless it is the only one; a method that the model has nothing for is
    skipped.

    Raises:
        FileExistsError: If `root` already holds runs and `resume` is not set.
        ValueError: If `root` holds another experiment, an option or device is refused, or no run could be completed.
        Interrupted: If `stop` was set; everything so far is kept.
    """
    _check_folder(experiment, root, resume=resume)
    for run in experiment.runs:
        build_method(run)  # an option or a device that is refused should not come up an hour later
        resolve_device(run.device)
    observer = observer or TrainingObserver()
    source = DataSource(observer.data_decoded)
    summaries: dict[str, list[Mapping[str, Any]]] = {}
    failures: dict[str, str] = {}
    skipped: dict[str, str] = {}
    refused: dict[RunFolder, Exception] = {}
    for run in experiment.runs:
        if run.method in skipped:
            continue
        folder = RunFolder(experiment.folder_of(run, root))
        if folder.is_complete:
            summary = read_json(folder.summary)
            observer.run_ended(run, summary)
        else:
            try:
                folder.failure.unlink(missing_ok=True)
                session = Session.build(run, source)
                if len(experiment.runs) > 1:
                    experiment.save(root)
                summary = train_session(session, folder.path, observer=observer, stop=stop, resume=resume)
            except UnsuitableModelError as error:
                if len(experiment.methods) == 1:
                    raise
                skipped[run.method] = str(error)
                observer.method_skipped(run.method, str(error))
                continue
            except (ValueError, RuntimeError, OSError) as error:
                if folder.config.exists():
                    folder.record_failure(error, kind=type(error).__name__)
                else:  # it never began: where nothing does, no folder is to be left behind
                    refused[folder] = error
                if len(experiment.runs) == 1:
                    raise
                failures[f"{run.method}, seed {run.seed}"] = str(error)
                observer.run_failed(run, str(error))
                continue
        summaries.setdefault(run.method, []).append(summary)
        if len(experiment.runs) > 1:
            _write_summaries(experiment, root, summaries, skipped)
    if not summaries:
        raise ValueError(f"no run could be completed: {next(iter({**failures, **skipped}.values()))}")
    for folder, reason in refused.items():
        folder.record_failure(reason, kind=type(reason).__name__)
    methods = [summarise_method(summaries[name]) for name in _ordered(experiment, summaries)]
    return ExperimentResult(tuple(methods), failures, skipped)


def _check_folder(experiment: Experiment, root: Path, *, resume: bool) -> None:
    if root.exists() and not root.is_dir():
        raise FileExistsError(f"{root} is a file, not a folder for runs")
    if not resume:
        if root.exists() and any(root.iterdir()):
            raise FileExistsError(f"{root} is not empty; resume what is there, or name another folder")
        return
    for run in experiment.runs:
        RunFolder(experiment.folder_of(run, root)).check_config(run)


def _write_summaries(
    experiment: Experiment, root: Path, summaries: Mapping[str, list[Mapping[str, Any]]], skipped: Mapping[str, str]
) -> None:
    methods = [summarise_method(summaries[name]) for name in _ordered(experiment, summaries)]
    for summary in methods:
        write_json(root / summary["method"] / "summary.json", summary)
    # The only method's numbers are the experiment's own; several stand side by side.
    of_one = methods[0] if len(experiment.methods) == 1 else {}
    write_json(root / "summary.json", {**of_one, "methods": methods, "skipped": dict(skipped)})


def _ordered(experiment: Experiment, summaries: Mapping[str, object]) -> Iterator[str]:
    return (name for name in experiment.methods if name in summaries)
