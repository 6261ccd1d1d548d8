"""Masks are the same bits for one process and for every way to cut a model over several."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn

from itop.methods import METHODS, Method
from rank_models import LAYOUTS, attach, fsdp, make_model, masks, samples_of, train
from rank_pool import RankPool

# Each with the options of the engine that it needs. SNIP chooses once, by the loss, and its masks stay.
METHODS_TO_COMPARE: dict[str, tuple[Method, dict[str, Any]]] = {
    "set": (METHODS["set"](update_every=1), {}),
    "rigl": (METHODS["rigl"](update_every=1), {}),
    "gmp": (METHODS["gmp"](update_every=1, end=1.0), {"total_steps": 60}),
    "snfs": (METHODS["snfs"](update_every=1, momentum=0.5), {}),  # a decay that does not round
    "snip": (METHODS["snip"](), {"loss": lambda outputs, _: outputs}),
    "set-itop": (METHODS["set-itop"](update_every=1), {}),
    "rigl-itop": (METHODS["rigl-itop"](update_every=1), {}),
}
NUM_UPDATES = {"set": 50, "rigl": 50, "gmp": 50, "snfs": 50, "snip": 0, "set-itop": 5, "rigl-itop": 5}


def train_layout(
    layout: str | None, method: str, steps: int, hidden: tuple[int, int] | None = (28, 24)
) -> dict[str, Any]:
    model = make_model(hidden)
    parts = 1
    if layout is not None:
        wrap, _, parts = LAYOUTS[layout]
        model = wrap(model)  # type: ignore[assignment]
    value, options = METHODS_TO_COMPARE[method]
    if "loss" in options:
        options = {**options, "batches": [(samples_of(1000, parts), torch.empty(0))]}
    engine = attach(model, value, **options)
    initial = masks(engine)
    train(model, engine, steps, parts)
    engine.check_sync()
    result = {
        "initial": initial,
        "masks": masks(engine),
        "layers": engine.layers,
        "updates": engine.num_updates,
        "topology bytes": engine.num_topology_bytes(),
        "local weights": [weight.numel() for weight in engine.topology.weights()],
        "outside": sum(
            int(weight[~mask].count_nonzero())
            for weight, mask in zip(engine.topology.weights(), engine.topology.active.to_tensors(), strict=True)
        ),
    }
    engine.detach()
    return result


def assert_same(a: dict[str, Any], b: dict[str, Any], what: str = "") -> None:
    for key in ("initial", "masks"):
        assert a[key].keys() == b[key].keys()
        for name in a[key]:
            assert np.array_equal(a[key][name], b[key][name]), f"{what} {key} of {name}"
    assert a["layers"] == b["layers"]
    assert a["updates"] == b["updates"]


def train_every_method(layout: str | None) -> dict[str, dict[str, Any]]:
    return {method: train_layout(layout, method, max(5, NUM_UPDATES[method])) for method in METHODS_TO_COMPARE}


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    return train_every_method(None)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_masks_after_many_updates_are_those_of_one_process(
    pools: dict[int, RankPool], layout: str, alone: dict[str, dict[str, Any]]
) -> None:
    for of_rank in pools[LAYOUTS[layout][1]].run(train_every_method, layout, timeout=400):
        for method, result in of_rank.items():
            assert_same(result, alone[method], method)
            assert result["outside"] == 0


def test_the_exact_training_moves_the_masks(alone: dict[str, dict[str, Any]]) -> None:
    """A comparison of masks that never change would show nothing."""
    for method, result in alone.items():
        assert result["updates"] == NUM_UPDATES[method]
        if method == "snip":
            assert (
                0
                < sum(mask.sum() for mask in result["masks"].values())
                < 0.31 * sum(mask.size for mask in result["masks"].values())
            )
            continue
        for name, mask in result["masks"].items():
            assert (mask != result["initial"][name]).sum() > 0, (method, name)


@pytest.mark.parametrize(("layout", "hidden"), [("FSDP2 on 4", (29, 3)), ("FSDP2 on 2", (1, 23)), ("HSDP 2x2", (5, 1))])
def test_uneven_and_empty_shards_have_the_masks_of_one_process(
    pools: dict[int, RankPool], layout: str, hidden: tuple[int, int]
) -> None:
    alone = train_layout(None, "rigl", 10, hidden)
    results = pools[LAYOUTS[layout][1]].run(train_layout, layout, "rigl", 10, hidden)
    for result in results:
        assert_same(result, alone)
    assert any(0 in result["local weights"] for result in results) or min(hidden) >= 2


def train_convolutions(layout: str | None) -> dict[str, dict[str, Any]]:
    return {method: train_layout(layout, method, 8, hidden=None) for method in ("set", "rigl", "gmp", "snfs", "snip")}


@pytest.mark.parametrize("layout", ["FSDP2 on 4", "HSDP 2x2"])
def test_convolutions_of_odd_sizes_and_tied_weights_have_the_masks_of_one_process(
    pools: dict[int, RankPool], layout: str
) -> None:
    alone = train_convolutions(None)
    assert len(alone["set"]["masks"]) == 4  # the tied weight is one layer
    for of_rank in pools[LAYOUTS[layout][1]].run(train_convolutions, layout, timeout=200):
        for method, result in of_rank.items():
            assert_same(result, alone[method], method)
            assert result["outside"] == 0


def test_a_rank_keeps_three_bits_for_each_weight_it_holds(pools: dict[int, RankPool]) -> None:
    for result in pools[4].run(train_layout, "FSDP2 on 4", "set", 1):
        words = sum(-(-numel // 64) for numel in result["local weights"])
        assert result["topology bytes"] == 3 * 8 * words


def update_and_count(layout: str, hidden: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Of each update: reductions and bytes by the engine's report, then by who watches torch.distributed."""
    seen = [0, 0]
    all_reduce = dist.all_reduce

    def watched(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        seen[1] += tensor.nbytes
        return all_reduce(tensor, *args, **kwargs)

    model = LAYOUTS[layout][0](make_model(hidden))
    engine = attach(model, METHODS["rigl"](update_every=100))
    counts = []
    dist.all_reduce = watched
    try:
        for _ in range(3):
            engine.optimizer.zero_grad()
            model(samples_of(1, LAYOUTS[layout][2])).backward()
            seen[:] = 0, 0
            report = engine.update()
            assert report is not None
            counts.append((report.num_reductions, report.num_wire_bytes, *seen))
            engine.optimizer.step()
    finally:
        dist.all_reduce = all_reduce
        engine.detach()
    return counts


def test_data_parallel_updates_put_nothing_on_the_wire(pools: dict[int, RankPool]) -> None:
    for counts in pools[2].run(update_and_count, "DDP on 2", (28, 24)):
        assert counts == [(0, 0, 0, 0)] * 3


@pytest.mark.parametrize("hidden", [(64, 64), (1024, 1024)])
@pytest.mark.parametrize("layout", ["FSDP2 on 2", "tensor parallel on 2"])
def test_a_sharded_update_reports_its_kilobytes_and_they_do_not_grow_with_the_layers(
    pools: dict[int, RankPool], layout: str, hidden: tuple[int, int]
) -> None:
    for counts in pools[2].run(update_and_count, layout, hidden):
        for reductions, num_bytes, seen_reductions, seen_bytes in counts:
            assert (reductions, num_bytes) == (seen_reductions, seen_bytes)
            assert 0 < num_bytes < 3 * 4096  # of three layers
            assert reductions < 100


class TwoKinds(nn.Module):
    """One sharded layer, one that FSDP2 was told to leave whole."""

    def __init__(self) -> None:
        super().__init__()
        self.sharded = nn.Linear(16, 32, bias=False)
        self.whole = nn.Linear(32, 16, bias=False)


def select_across_layers(is_sharded: bool) -> list[Any]:
    torch.manual_seed(0)
    model = TwoKinds()
    if is_sharded:
        fsdp(model.sharded)
    engine = attach(model)
    topology = engine.topology
    generator = torch.Generator().manual_seed(3)
    scores = [torch.randint(-9, 10, layer.shape, generator=generator).float() for layer in topology.layers]
    from itop.selection import Scores

    chosen = topology.select(topology.full(), 500, Scores([topology.part(i, score) for i, score in enumerate(scores)]))
    result = [topology.whole(i, mask).numpy().copy() for i, mask in enumerate(chosen.to_tensors())]
    engine.detach()
    return [*result, chosen.counts()]


def test_layers_that_are_cut_differently_compete_as_in_one_process(pools: dict[int, RankPool]) -> None:
    alone = select_across_layers(False)
    assert sum(alone[-1]) == 500
    for result in pools[2].run(select_across_layers, True):
        assert result[-1] == alone[-1]
        for mine, expected in zip(result[:-1], alone[:-1], strict=True):
            assert np.array_equal(mine, expected)
