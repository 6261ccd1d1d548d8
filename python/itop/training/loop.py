"""The training loop: an ordinary one, since the engine works inside ``optimizer.step()``."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from itop.analysis.ensembles import EnsembleReport, ensemble_report
from itop.analysis.preserving import state_kept
from itop.data import BatchLoader
from itop.training.averaging import averages_in_place, end_with_averages, note_validation
from itop.training.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from itop.training.config import RunConfig
from itop.training.data_source import DataSource
from itop.training.execution import limited_threads
from itop.training.files import write_json
from itop.training.interruption import Interrupted, StopRequest
from itop.training.learning_rates import set_learning_rate
from itop.training.meter import Score, evaluate
from itop.training.observers import TrainingObserver
from itop.training.predictions import Predictions, read_predictions, write_predictions
from itop.training.records import EpochRecord, MetricsLog, UpdateRecord
from itop.training.run_folder import RunFolder
from itop.training.session import BestModel, Session
from itop.training.summary import RunResult, summarise_run
from itop.update_report import UpdateReport

__all__ = ["DivergedError", "train_run", "train_session"]

_EVALUATION_BATCH = 256
_MAX_PREDICTIONS = 4_000_000
_MAX_TRAINING_SAMPLES = 10_000


def _evaluation_batch(config: RunConfig) -> int:
    """Truly sparse networks may be so wide that activations are most of their memory: the batch training takes, then."""
    return config.batch_size if config.execution == "sparse" else _EVALUATION_BATCH


@final
class DivergedError(RuntimeError):
    """The loss is no longer a number."""


def train_run(
    config: RunConfig,
    folder: Path,
    *,
    observer: TrainingObserver | None = None,
    stop: StopRequest | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains one configuration to its end; see :func:`train_session`.

    Raises:
        ValueError: If something configured cannot be had; nothing has been written then.
    """
    session = Session.build(config, DataSource())
    return train_session(session, folder, observer=observer, stop=stop, resume=resume)


def train_session(
    session: Session,
    folder: Path,
    *,
    observer: TrainingObserver | None = None,
    stop: StopRequest | None = None,
    resume: bool = False,
) -> dict[str, Any]:
    """Trains a session to its end and writes its run folder.

    Args:
        session: At its start.
        folder: Where ``config.json``, ``metrics.jsonl``, ``summary.json`` and the checkpoints go.
        observer: Hears of steps, updates and epochs.
        stop: Ends the run after the current step, with a checkpoint.
        resume: Whether to go on from the folder's last checkpoint, if there is one.

    Returns:
        The content of ``summary.json``.

    Raises:
        Interrupted: If `stop` was set.
        DivergedError: If the loss became infinite or NaN.
        CheckpointError: If the folder's checkpoint is damaged or of another run; nothing has been written then.
    """
    run_folder = RunFolder(folder)
    keep_bytes = 0
    if resume and run_folder.last_checkpoint.exists():
        keep_bytes = session.restore(_last_checkpoint(run_folder, session))
    run_folder.create(session.config)
    with (
        limited_threads(session.config.threads),
        MetricsLog(run_folder.metrics, keep_bytes=keep_bytes) as metrics,
    ):
        loop = _Loop(session, run_folder, metrics, observer or TrainingObserver(), stop or StopRequest())
        return loop.run()


def _last_checkpoint(folder: RunFolder, session: Session) -> Checkpoint:
    try:
        return load_checkpoint(folder.last_checkpoint, device=session.device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; move it away, and the run starts anew when it is resumed") from None


class _Loop:
    """One pass from where the session stands to the end of its run."""

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        metrics: MetricsLog,
        observer: TrainingObserver,
        stop: StopRequest,
    ) -> None:
        self._session = session
        self._folder = folder
        self._metrics = metrics
        self._observer = observer
        self._stop = stop
        self._schedule = session.config.schedule()
        self._learning_rate = math.nan
        self._clock = time.monotonic()
        self._last_checkpoint = self._clock
        self._validation: BatchLoader | None = None
        if session.data.num_validation > 0:
            self._validation = session.data.validation(
                _evaluation_batch(session.config), device=session.device, workers=session.config.workers
            )

    def run(self) -> dict[str, Any]:
        session, position = self._session, self._session.position
        session.engine.on_update(self._topology_updated)
        if position.step == 0:
            session.instruments.step_taken(0)
        self._observer.run_started(session.config, self._folder.path, position.step, session.total_steps)
        while position.step < session.total_steps:
            self._train_epoch()
            self._end_epoch()
        return self._finish()

    def _train_epoch(self) -> None:
        session, position = self._session, self._session.position
        session.model.train()
        for images, labels in session.train_loader.epoch(position.epoch, start_batch=position.batch):
            self._set_learning_rate()
            self._train_step(images, labels)
            position.step += 1
            position.batch += 1
            session.instruments.step_taken(position.step)
            self._observer.step_taken(position.step)
            if self._stop.is_set:
                self._save_checkpoint()
                raise Interrupted(self._folder.path, position.step)
            if position.step == session.total_steps:
                return
            if session.config.checkpoint_seconds > 0 and self._is_checkpoint_due():
                self._save_checkpoint()

    def _train_step(self, images: Tensor, labels: Tensor) -> None:
        session = self._session
        session.instruments.batch_taken(images, labels)
        with session.precision.autocast():
            outputs = session.forward(images)
            loss = session.loss(outputs, labels)
        session.meter.add(loss, outputs, labels)
        session.optimizer.zero_grad(set_to_none=True)
        session.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if session.config.gradient_clip is not None:
            session.scaler.unscale_(session.optimizer)
            nn.utils.clip_grad_norm_(session.model.parameters(), session.config.gradient_clip)
        session.scaler.step(session.optimizer)
        session.scaler.update()

    def _set_learning_rate(self) -> None:
        rate = self._learning_rate_of(self._session.position.step)
        if rate != self._learning_rate:
            set_learning_rate(self._session.optimizer, rate)
            self._learning_rate = rate

    def _learning_rate_of(self, step: int) -> float:
        """Of the step after `step` others."""
        session = self._session
        progress = session.engine.method.schedule_progress(step, session.total_steps)
        return session.config.learning_rate * self._schedule.factor(progress)

    def _end_epoch(self) -> None:
        session, position = self._session, self._session.position
        trained = session.meter.score()
        session.meter.reset()
        if not math.isfinite(trained.loss):
            raise DivergedError(
                f"the training loss of epoch {position.epoch + 1} is {trained.loss}; a lower learning rate "
                f"than {session.config.learning_rate:g} may help"
            )
        position.epoch += 1
        position.batch = 0
        with averages_in_place(session.optimizer):
            validated = self._validate()
            if validated is not None:
                session.keep_best(validated.accuracy)
        if validated is not None:
            note_validation(session.optimizer, validated.loss)
        self._record_epoch(trained, validated)
        if self._is_checkpoint_due():
            self._save_checkpoint()

    def _validate(self) -> Score | None:
        return None if self._validation is None else self._evaluate(self._validation)

    def _record_epoch(self, trained: Score, validated: Score | None) -> None:
        session, position, engine = self._session, self._session.position, self._session.engine
        record = EpochRecord(
            epoch=position.epoch,
            step=position.step,
            round=(position.epoch - 1) // session.config.num_epochs,
            learning_rate=self._learning_rate_of(position.step - 1),
            train_loss=trained.loss,
            train_accuracy=trained.accuracy,
            validation_loss=None if validated is None else validated.loss,
            validation_accuracy=None if validated is None else validated.accuracy,
            density=engine.density,
            exploration_rate=engine.exploration_rate,
            reliable_rate=engine.reliable_rate,
            seconds=self._elapsed(),
        )
        self._metrics.write(record)
        self._observer.epoch_ended(record)

    def _topology_updated(self, report: UpdateReport) -> None:
        record = UpdateRecord.of(report)
        self._metrics.write(record)
        self._observer.topology_updated(record)

    def _elapsed(self) -> float:
        now = time.monotonic()
        self._session.seconds += now - self._clock
        self._clock = now
        return self._session.seconds

    def _is_checkpoint_due(self) -> bool:
        return time.monotonic() - self._last_checkpoint >= self._session.config.checkpoint_seconds

    def _save_checkpoint(self) -> None:
        self._elapsed()
        checkpoint = self._session.checkpoint(metrics_bytes=self._metrics.flush())
        save_checkpoint(self._folder.last_checkpoint, checkpoint)
        self._last_checkpoint = time.monotonic()

    def _finish(self) -> dict[str, Any]:
        """Looks at the test set, writes the last files, the summary as the very last."""
        session = self._session
        end_with_averages(session.optimizer)
        self._save_checkpoint()
        self._observer.test_began(session.data.num_test)
        said = Predictions() if session.config.probes and self._predictions_fit(1) else None
        last, train = self._test(said), self._score_training_samples()
        if not math.isfinite(last.loss):
            raise DivergedError(
                f"the test loss of the finished network is {last.loss}; a lower learning rate than "
                f"{session.config.learning_rate:g} may help"
            )
        session.instruments.write(self._folder, session.data.input_shape)
        if said is not None:
            write_predictions(self._folder.predictions, *said.tensors())
        tickets = self._test_tickets()
        best = None
        if session.best is not None:
            best = last if _holds(session.model, session.best.model) else self._test_best(session.best)
            save_checkpoint(self._folder.best_checkpoint, session.best_checkpoint())
        self._elapsed()
        summary = summarise_run(session, RunResult(last, best, train, tickets))
        write_json(self._folder.summary, summary)
        self._observer.run_ended(session.config, summary)
        return summary

    def _score_training_samples(self) -> Score:
        """Of those that the run may have seen, no more than there are steps for."""
        session = self._session
        batch_size = _evaluation_batch(session.config)
        num_samples = min(_MAX_TRAINING_SAMPLES, session.total_steps * session.config.batch_size)
        loader = session.data.train(
            batch_size,
            device=session.device,
            augment=False,
            seed=session.config.seed,
            workers=session.config.workers,
        )
        batches = itertools.islice(loader.epoch(0), -(-num_samples // batch_size))
        return evaluate(session.model, batches, session.loss, session.precision, session.device)

    def _predictions_fit(self, num_models: int) -> bool:
        """Whether predictions are kept: those on huge test sets are left out."""
        data = self._session.data
        return num_models * data.num_test * data.num_classes <= _MAX_PREDICTIONS

    def _test_tickets(self) -> EnsembleReport | None:
        """The networks that the method has set aside, as one classifier."""
        session = self._session
        tickets = session.engine.tickets()
        if len(tickets) < 2 or not self._predictions_fit(len(tickets)):
            return None
        said: list[Predictions] = []
        with state_kept(session.model):
            for ticket in tickets:
                session.model.load_state_dict(ticket)
                said.append(Predictions())
                self._test(said[-1])
        logarithms = torch.stack([of_ticket.tensors()[0] for of_ticket in said])
        labels = said[0].tensors()[1]
        write_predictions(self._folder.ticket_predictions, logarithms, labels)
        return ensemble_report(*read_predictions(self._folder.ticket_predictions))

    def _test_best(self, best: BestModel) -> Score:
        with state_kept(self._session.model):
            self._session.model.load_state_dict(best.model)
            return self._test()

    def _test(self, said: Predictions | None = None) -> Score:
        """Scores the present model on the test set; what it says of each sample goes into ``said``."""
        config, data, device = self._session.config, self._session.data, self._session.device
        loader = data.test(_evaluation_batch(config), device=device, workers=config.workers)
        return self._evaluate(loader, said)

    def _evaluate(self, loader: BatchLoader, said: Predictions | None = None) -> Score:
        session = self._session
        seen = None if said is None else said.add
        return evaluate(session.model, loader, session.loss, session.precision, session.device, seen=seen)


def _holds(model: nn.Module, state: Mapping[str, Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
