"""Sharded checkpoints continue on any number of ranks as if nothing had happened."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn

from itop import SparseEngine
from itop.distributed.checkpoint import ModelAndOptimizer, latest, load, save
from itop.methods import METHODS
from rank_models import LAYOUTS, attach, data_parallel, fsdp, make_model, masks, train, whole
from rank_pool import RankPool


def build(layout: str | None, method: str = "rigl") -> tuple[nn.Module, SparseEngine, int]:
    model: nn.Module = make_model()
    parts = 1
    if layout is not None:
        wrap, _, parts = LAYOUTS[layout]
        model = wrap(model)
    options = {"momentum": 0.5} if method == "snfs" else {}  # a decay that does not round
    return model, attach(model, METHODS[method](update_every=1, **options)), parts


def train_and_save(layout: str | None, steps: int, folder: str, method: str = "rigl") -> None:
    model, engine, parts = build(layout, method)
    train(model, engine, steps, parts)
    save(folder, engine.steps, {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine})


def load_and_train(layout: str | None, steps: int, folder: str, method: str = "rigl") -> dict[str, Any]:
    model, engine, parts = build(layout, method)
    newest = latest(folder)
    assert newest is not None
    load(newest, {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine})
    train(model, engine, steps, parts)
    return {"masks": masks(engine), "layers": engine.layers, "steps": engine.steps, "updates": engine.num_updates}


def never_stopped(steps: int, method: str = "rigl") -> dict[str, Any]:
    model, engine, _ = build(None, method)
    train(model, engine, steps)
    return {"masks": masks(engine), "layers": engine.layers, "steps": engine.steps, "updates": engine.num_updates}


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert {key: a[key] for key in ("layers", "steps", "updates")} == {
        key: b[key] for key in ("layers", "steps", "updates")
    }
    for name, mask in a["masks"].items():
        assert np.array_equal(mask, b["masks"][name]), name


def test_four_ranks_continue_as_two_and_as_one(pools: dict[int, RankPool], tmp_path: Path) -> None:
    expected = never_stopped(6)
    pools[4].run(train_and_save, "FSDP2 on 4", 3, str(tmp_path))
    for result in pools[2].run(load_and_train, "FSDP2 on 2", 3, str(tmp_path)):
        assert_same(result, expected)
    assert_same(load_and_train(None, 3, str(tmp_path)), expected)
    for result in pools[2].run(load_and_train, "DDP on 2", 3, str(tmp_path)):
        assert_same(result, expected)


def test_one_process_continues_as_two_by_two(pools: dict[int, RankPool], tmp_path: Path) -> None:
    train_and_save(None, 3, str(tmp_path))
    expected = never_stopped(6)
    for result in pools[4].run(load_and_train, "FSDP2 x tensor parallel 2x2", 3, str(tmp_path)):
        assert_same(result, expected)


@pytest.mark.parametrize("method", ["snfs", "dst-ee", "set-itop", "granet"])
def test_what_a_method_remembers_of_each_weight_is_cut_anew_too(
    pools: dict[int, RankPool], method: str, tmp_path: Path
) -> None:
    expected = never_stopped(6, method)
    pools[2].run(train_and_save, "tensor parallel on 2", 3, str(tmp_path), method)
    for result in pools[4].run(load_and_train, "HSDP 2x2", 3, str(tmp_path), method):
        assert_same(result, expected)
    for result in pools[4].run(load_and_train, "FSDP2 on 4", 3, str(tmp_path), method):
        assert_same(result, expected)


def save_engine_itself(folder: str) -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model, "set")
    train(model, engine, 2, parts=2)
    dcp.save({"engine": engine}, checkpoint_id=folder)


def test_the_engine_is_stateful_by_itself(pools: dict[int, RankPool], tmp_path: Path) -> None:
    pools[2].run(save_engine_itself, str(tmp_path / "by-dcp"))
    alone = attach(make_model(), "set")
    train_model = make_model()
    reference = attach(train_model, "set")
    train(train_model, reference, 2)
    dcp.load({"engine": alone}, checkpoint_id=str(tmp_path / "by-dcp"), no_dist=True)
    assert alone.steps == 2
    assert alone.topology.digest() == reference.topology.digest()


def save_whole_state(path: str) -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model)
    train(model, engine, 2, parts=2)
    state = engine.state_dict(full=True)
    if dist.get_rank() == 0:
        torch.save(state, path)
    engine.load_state_dict(state)


def test_a_whole_state_of_a_sharded_engine_loads_anywhere_from_one_file(
    pools: dict[int, RankPool], tmp_path: Path
) -> None:
    pools[2].run(save_whole_state, str(tmp_path / "engine.pt"))
    engine = attach(make_model())
    engine.load_state_dict(torch.load(tmp_path / "engine.pt", weights_only=True))
    model = make_model()
    reference = attach(model)
    train(model, reference, 2)
    assert engine.topology.digest() == reference.topology.digest()


def load_another_sharding() -> None:
    model = make_model()
    fsdp(model)
    engine = attach(model)
    other = make_model()
    from rank_models import tensor_parallel

    tensor_parallel(other)
    engine.load_state_dict(attach(other).state_dict())


def test_a_state_of_another_sharding_is_refused_on_every_rank(pools: dict[int, RankPool]) -> None:
    for error in pools[2].errors(load_another_sharding):
        assert "of another sharding: layer '" in error
        assert "torch.distributed.checkpoint" in error


class Wider(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(12, 30, bias=False)


def load_into_another_model(folder: str) -> None:
    model = Wider()
    fsdp(model)
    engine = attach(model)
    newest = latest(folder)
    assert newest is not None
    load(newest, {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine})


def test_a_checkpoint_of_another_model_is_refused_on_every_rank(pools: dict[int, RankPool], tmp_path: Path) -> None:
    pools[2].run(train_and_save, "DDP on 2", 1, str(tmp_path))
    for error in pools[2].errors(load_into_another_model, str(tmp_path)):
        assert "does not fit this model, optimiser and engine" in error


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 1}, "was saved with seed 0, this engine has seed 1"),
    "method": ({"method": "set"}, "was saved by method 'rigl', this engine has 'set'"),
    "sparsity": ({"sparsity": 0.6}, "this engine to 461 (sparsity 0.599826)"),
    "horizon": ({"total_steps": 1}, "was saved at step 2 of 1000, this engine ends at total_steps 1"),
}


def load_with_another(difference: str, folder: str) -> tuple[str, bool]:
    model = make_model()
    fsdp(model)
    engine = attach(model, **{"method": METHODS["rigl"](update_every=1), **OTHERS[difference][0]})
    newest = latest(folder)
    assert newest is not None
    weights, digest = [whole(p).clone() for p in model.parameters()], engine.topology.digest()
    with pytest.raises(ValueError, match=r"^the engine state ") as refusal:
        load(newest, {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine})
    is_unchanged = all(torch.equal(whole(p), w) for p, w in zip(model.parameters(), weights, strict=True))
    return str(refusal.value), is_unchanged and engine.topology.digest() == digest


@pytest.mark.parametrize("difference", OTHERS)
def test_a_checkpoint_of_another_run_is_refused_before_a_weight_has_changed(
    pools: dict[int, RankPool], difference: str, tmp_path: Path
) -> None:
    pools[2].run(train_and_save, "DDP on 2", 2, str(tmp_path))
    for message, is_unchanged in pools[2].run(load_with_another, difference, str(tmp_path)):
        assert OTHERS[difference][1] in message
        assert is_unchanged


def fine_tune(folder: str) -> bool:
    model = make_model()
    fsdp(model)
    engine = attach(model, METHODS["fixed"](), sparsity=0.1)
    load(latest(folder) or "", {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine})
    before = masks(engine)
    train(model, engine, 3, parts=2)
    engine.check_sync()
    return all(np.array_equal(mask, before[name]) for name, mask in masks(engine).items()) and engine.density < 0.31


def test_a_checkpoint_of_any_method_is_fine_tuned_on_shards(pools: dict[int, RankPool], tmp_path: Path) -> None:
    pools[2].run(train_and_save, "DDP on 2", 2, str(tmp_path))
    assert pools[2].run(fine_tune, str(tmp_path)) == [True, True]


def test_saving_before_the_first_step_counts_no_step(tmp_path: Path) -> None:
    """torch.distributed.checkpoint steps an optimiser that has no state yet, to make it."""
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    engine = SparseEngine(model, optimizer, "static", sparsity=0.5, total_steps=10)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    save(tmp_path, 0, {"training": ModelAndOptimizer(model, optimizer), "engine": engine})
    assert optimizer.state
    assert engine.steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_an_unfinished_checkpoint_is_not_seen_and_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".step-0000000009.partial").mkdir()
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None
    engine = attach(make_model())
    for step in (1, 2, 3):
        save(tmp_path, step, {"engine": engine}, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-0000000002", "step-0000000003"]
    assert latest(tmp_path) == tmp_path / "step-0000000003"


def test_a_folder_without_metadata_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"is not a complete checkpoint, or damaged: its file \.metadata is missing; there is no"
    ):
        load(tmp_path / "step-0000000001", {"engine": attach(make_model())})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def change_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut": ("__1_0.distcp", cut, r"its file __1_0\.distcp has \d+ of \d+ bytes"),
    "empty": ("__0_0.distcp", lambda file: file.write_bytes(b""), r"its file __0_0\.distcp has 0 of \d+ bytes"),
    "a bit": ("__1_0.distcp", change_a_bit, r"the bytes of its file __1_0\.distcp are not those that were written"),
    "gone": ("__1_0.distcp", Path.unlink, r"its file __1_0\.distcp is missing"),
    "metadata": (".metadata", change_a_bit, r"the bytes of its file \.metadata are not those that were written"),
    "no metadata": (".metadata", Path.unlink, r"its file \.metadata is missing"),
    "checksums": ("checksums.json", cut, r"its file checksums\.json cannot be read"),
}


def load_the_damaged(folder: str) -> tuple[str, bool, int]:
    """The refusal of the newest; whether nothing has changed; and the steps after loading what the refusal names."""
    model, engine, _ = build("FSDP2 on 2")
    states = {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine}
    weights, digest = [whole(p).clone() for p in model.parameters()], engine.topology.digest()
    newest = latest(folder)
    assert newest is not None
    with pytest.raises(ValueError, match="damaged") as refusal:
        load(newest, states)
    is_unchanged = all(torch.equal(whole(p), w) for p, w in zip(model.parameters(), weights, strict=True))
    load(str(refusal.value).rpartition("; load ")[2], states)
    return str(refusal.value), is_unchanged and engine.topology.digest() != digest, engine.steps


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_on_every_rank_with_the_checkpoint_to_load_instead(
    pools: dict[int, RankPool], damage: str, tmp_path: Path
) -> None:
    for steps in (1, 2):
        pools[2].run(train_and_save, "FSDP2 on 2", steps, str(tmp_path))
    name, harm, words = DAMAGES[damage]
    harm(tmp_path / "step-0000000002" / name)
    for message, is_unchanged, steps in pools[2].run(load_the_damaged, str(tmp_path)):
        assert re.fullmatch(
            rf"{tmp_path}/step-0000000002 is not a complete checkpoint, or damaged: {words}; load {tmp_path}/step-0000000001",
            message,
        )
        assert is_unchanged
        assert steps == 1


def test_a_checkpoint_without_checksums_is_of_an_older_release_and_loads(tmp_path: Path) -> None:
    train_and_save(None, 2, str(tmp_path))
    (tmp_path / "step-0000000002" / "checksums.json").unlink()
    assert load_and_train(None, 1, str(tmp_path))["steps"] == 3


def save_while_training_in_parallel(folder: str) -> bool:
    model = data_parallel(make_model())
    engine = attach(model)
    train(model, engine, 1, parts=2)
    save(folder, 1, {"engine": engine})
    before = engine.topology.digest()
    train(model, engine, 2, parts=2)
    load(latest(folder) or "", {"engine": engine})
    return engine.topology.digest() == before and engine.steps == 1


def test_loading_back_in_the_middle_of_a_run(pools: dict[int, RankPool], tmp_path: Path) -> None:
    assert pools[2].run(save_while_training_in_parallel, str(tmp_path)) == [True, True]


def save_in_the_background(method: str, folder: str) -> dict[str, Any]:
    """Training goes on while a thread writes; then a new engine goes on from what was written. Narrow layers, with zeros to drop."""
    group = dist.new_group(backend="gloo")  # the thread's own: collectives of two threads on one group would mix

    def build_narrow() -> tuple[nn.Module, SparseEngine, dict[str, Any]]:
        model = fsdp(make_model((7, 3)))
        engine = attach(model, METHODS[method](update_every=1))
        return model, engine, {"training": ModelAndOptimizer(model, engine.optimizer), "engine": engine}

    model, engine, states = build_narrow()
    train(model, engine, 4, parts=2)
    writing = dcp.async_save(states, checkpoint_id=folder, process_group=group)
    train(model, engine, 3, parts=2)
    writing.result()
    dist.barrier()
    model, engine, states = build_narrow()
    dcp.load(states, checkpoint_id=folder)
    train(model, engine, 4, parts=2)
    return {"masks": masks(engine), "layers": engine.layers, "steps": engine.steps, "updates": engine.num_updates}


@pytest.mark.parametrize("method", ["set", "rigl", "set-itop"])
def test_a_checkpoint_that_is_written_in_the_background_is_of_when_it_was_asked_for(
    pools: dict[int, RankPool], method: str, tmp_path: Path
) -> None:
    model = make_model((7, 3))
    engine = attach(model, METHODS[method](update_every=1))
    train(model, engine, 8)
    expected = {"masks": masks(engine), "layers": engine.layers, "steps": engine.steps, "updates": engine.num_updates}
    for result in pools[2].run(save_in_the_background, method, str(tmp_path / "by-dcp")):
        assert_same(result, expected)
