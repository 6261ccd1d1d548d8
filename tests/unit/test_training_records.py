"""metrics.jsonl: what is written is what is read, also after an interruption."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from itop.training.records import EpochRecord, LayerUpdate, MetricsLog, UpdateRecord, read_metrics


def epoch(number: int, loss: float = 0.5) -> EpochRecord:
    return EpochRecord(number, number * 10, 0, 0.1, loss, 0.75, None, None, 0.1, 0.2, 0.15, 1.5)


UPDATE = UpdateRecord(1, 7, 0.1, 0.2, 0.05, 3, 3, {"fc1.weight": LayerUpdate(100, 0.1, 0.2, 0.05, 3, 3)})


def test_records_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(UPDATE)
        log.write(epoch(1))
    assert list(read_metrics(path)) == [UPDATE, epoch(1)]
    assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["update", "epoch"]


def test_what_was_written_after_the_checkpoint_is_dropped_on_resume(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(epoch(1))
        at_checkpoint = log.flush()
        log.write(epoch(2))
    with MetricsLog(path, keep_bytes=at_checkpoint) as log:
        log.write(epoch(3))
    assert list(read_metrics(path)) == [epoch(1), epoch(3)]


def test_a_new_run_starts_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(epoch(1))
    with MetricsLog(path):
        pass
    assert list(read_metrics(path)) == []


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(epoch(1))
        log.write(epoch(2))
    path.write_bytes(path.read_bytes()[:-20])
    assert list(read_metrics(path)) == [epoch(1)]


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"kind": "epoch"}\n{"kind": "epoch"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl, line 1, is no record"):
        list(read_metrics(path))


def test_a_loss_that_is_no_number_is_written_as_valid_json(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path) as log:
        log.write(epoch(1, math.nan))
    assert json.loads(path.read_text())["train_loss"] is None
    (record,) = read_metrics(path)
    assert isinstance(record, EpochRecord)
    assert math.isnan(record.train_loss)
