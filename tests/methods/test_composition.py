"""Parts go with each other: any score, any growth, any pattern, a density that changes, in one method."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from tests.methods.by_hand import ByHand
from tests.methods.workbench import TOTAL_STEPS, Run, short

from itop import SparseEngine
from itop.criteria import (
    Blocks,
    ConstantFanIn,
    GradientGrowth,
    MagnitudeAndGradientDrop,
    MagnitudeDrop,
    MomentumGrowth,
    NofM,
    Pattern,
    RandomGrowth,
    SensitivityDrop,
    SignedMagnitudeDrop,
    SoftDrop,
    SoftGrowth,
    TaylorDrop,
    UnexploredFirst,
)
from itop.criteria.curvature import CurvatureDrop
from itop.methods import METHODS, PRESETS, DropAndGrow
from itop.methods.composed import with_pattern, with_ramp
from itop.schedules import ConstantDropFraction, DensityRamp, Every
from itop.update_report import UpdateReport

DYNAMIC = [
    name
    for name in ("set-itop", "rigl", "rigl-itop", "mest", "dst-ee", "selfish-rnn", "nm", "block")
    if name in METHODS
]
COMPOSED = ("set", "set-itop", "rigl", "rigl-itop", "mest", "dst-ee", "selfish-rnn")
"""Those with no pattern, ramp or redistribution of their own."""


def composed(name: str, **changes: object) -> DropAndGrow:
    method = short(name)
    assert isinstance(method, DropAndGrow)
    return dataclasses.replace(method, **changes)  # type: ignore[arg-type]


def groups_of(mask: torch.Tensor, size: int) -> set[int]:
    """How many weights are active in each full group of consecutive weights of a row."""
    rows = mask.flatten(1)
    whole = rows[:, : rows.shape[1] // size * size]
    return set(whole.reshape(-1, size).sum(1).tolist())


@pytest.mark.parametrize("name", DYNAMIC)
def test_any_dynamic_method_keeps_n_of_m(name: str) -> None:
    run = Run(composed(name, pattern=NofM(4), allocation="uniform"), sparsity=0.75)
    run.train(TOTAL_STEPS, check_one_of_four)
    assert run.engine.num_updates > 0
    assert run.engine.exploration_rate > run.engine.density


def check_one_of_four(run: Run) -> None:
    for mask in run.masks().values():
        assert int(mask.sum()) == round(0.25 * mask.numel())
        # Where rows of nine hold a group of one, two or three of their groups have one.
        assert groups_of(mask, 4) == ({1} if mask.flatten(1).shape[1] % 4 == 0 else {0, 1})


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("pattern", [Blocks(2, 2), ConstantFanIn()])
def test_any_dynamic_method_keeps_blocks_or_a_constant_fan_in(name: str, pattern: Pattern) -> None:
    run = Run(composed(name, pattern=pattern, allocation="uniform"), sparsity=0.75)
    run.train(TOTAL_STEPS)
    mask = run.engine.mask("fc2.weight")
    if isinstance(pattern, Blocks):
        blocks = mask.view(10, 2, 15, 2).sum((1, 3))
        assert set(blocks.flatten().tolist()) == {0, 4}
    else:
        assert len(set(mask.sum(1).tolist())) == 1
    assert run.engine.exploration_rate > run.engine.density


@pytest.mark.parametrize("name", [name for name in DYNAMIC if name not in ("nm", "block")])
@pytest.mark.parametrize("initial", [1.0, 0.5, 0.05])
def test_any_dynamic_method_takes_a_density_that_changes(name: str, initial: float) -> None:
    from itop.criteria import RandomMasksOfDensity

    ramp = DensityRamp(initial, 0.0, 0.5)
    method = composed(name, ramp=ramp, initial=RandomMasksOfDensity(initial), update_schedule=ramp.updates(Every(8)))
    run = Run(method)
    densities = [run.engine.density]
    run.train(TOTAL_STEPS, lambda run: densities.append(run.engine.density))
    assert densities[0] == pytest.approx(initial, abs=1e-3)
    falls = initial > 0.2
    assert all((b <= a) if falls else (b >= a) for a, b in itertools.pairwise(densities))
    assert run.engine.density == pytest.approx(0.2, abs=1e-3)


DROPS = [
    MagnitudeDrop(),
    SignedMagnitudeDrop(),
    MagnitudeAndGradientDrop(),
    TaylorDrop(),
    SensitivityDrop(),
    CurvatureDrop(),
    SoftDrop(),
    SoftDrop(TaylorDrop()),
]
GROWTHS = [
    RandomGrowth(),
    GradientGrowth(),
    MomentumGrowth(),
    SoftGrowth(),
    SoftGrowth(MomentumGrowth()),
    UnexploredFirst(),
    UnexploredFirst(SoftGrowth()),
]


@pytest.mark.parametrize("drop", DROPS, ids=repr)
@pytest.mark.parametrize("grow", GROWTHS, ids=repr)
def test_any_drop_goes_with_any_growth_at_exact_counts(drop: object, grow: object) -> None:
    method = DropAndGrow("composed", Every(4), ConstantDropFraction(0.3), drop, grow)  # type: ignore[arg-type]
    run = Run(method)
    counts = [layer.num_active for layer in run.engine.layers]
    run.train(16)
    assert run.engine.num_updates == 4
    assert [layer.num_active for layer in run.engine.layers] == counts


def test_sensitivity_drops_what_the_loss_hardly_feels() -> None:
    method = DropAndGrow("sensitivity", Every(2), ConstantDropFraction(0.5), SensitivityDrop(0.5), GradientGrowth())
    run = ByHand(method, [[1.0, 9.0, 0.0, 0.0]], masks=[[[1, 1, 0, 0]]])
    run.step([[4.0, 1.0, 0.0, 0.0]])
    run.step([[-1.0, 1.0, 0.0, 2.0]])
    # abs(g) averaged: 1 + 0.5 and 0.25 + 0.5: the large weight goes.
    assert run.active() == [[1, 0, 0, 1]]


def test_soft_drop_takes_small_weights_more_often_in_proportion_to_their_inverse() -> None:
    method = DropAndGrow("soft", Every(1), ConstantDropFraction(0.5), SoftDrop(MagnitudeDrop(), 1.0))
    gone = Counter(
        int(after_a_drop(method, seed).argmin()) for seed in range(400)
    )  # of 1 and 3 one goes: p ~ 1/1 against 1/3
    assert gone[0] / 400 == pytest.approx(0.75, abs=0.07)


def after_a_drop(method: DropAndGrow, seed: int) -> torch.Tensor:
    """The magnitudes after one update of two weights, 1 and 3."""
    run = ByHand(method, [[1.0, 3.0, 0.0, 0.0]], masks=[[[1, 1, 0, 0]]], seed=seed)
    run.step()
    return run.weights()[0, :2].abs()


def test_soft_growth_takes_large_gradients_more_often() -> None:
    method = DropAndGrow("soft", Every(1), ConstantDropFraction(0.5), grow=SoftGrowth(temperature=1.0))
    grown: Counter[int] = Counter()
    for seed in range(400):
        run = ByHand(method, [[5.0, 1.0, 0.0, 0.0]], masks=[[[1, 1, 0, 0]]], seed=seed)
        run.step([[0.0, 0.0, 1.0, 3.0]])
        grown[torch.tensor(run.active()[0][1:]).argmax().item()] += 1  # type: ignore[index]
    # Sites 1, 2, 3 with gradients 0, 1, 3: p = 0, 1/4, 3/4.
    assert grown[0] == 0
    assert grown[2] / 400 == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize("name", COMPOSED)
@pytest.mark.parametrize("initial", [1.0, 0.05])
@pytest.mark.parametrize("pattern", ["n:8", "fan-in", "2x3"])
def test_a_ramp_goes_with_a_pattern(name: str, initial: float, pattern: str) -> None:
    if name == "set" and pattern == "2x3":
        return
    method = with_ramp(with_pattern(short(name), pattern), initial, 0.5)  # type: ignore[arg-type]
    run = Run(dataclasses.replace(method, allocation="uniform"), sparsity=0.75)
    densities = [run.engine.density]

    def look(run: Run) -> None:
        densities.append(run.engine.density)
        for mask in run.masks().values():
            assert_keeps(mask, pattern)

    look(run)
    run.train(TOTAL_STEPS, look)
    assert densities[0] == pytest.approx(initial, abs=0.1), "what the pattern admits of it"
    assert run.engine.density == pytest.approx(0.25, abs=0.02)
    assert run.engine.num_updates > 0
    falls = initial > 0.3
    assert all((b <= a) if falls else (b >= a) for a, b in itertools.pairwise(densities))


def assert_keeps(mask: torch.Tensor, pattern: str) -> None:
    """Every row or whole block of a layer is alike; no group holds more than it must."""
    rows = mask.flatten(1)
    if pattern == "n:8":
        assert max(groups_of(mask, 8)) <= -(-int(mask.sum()) * 8 // mask.numel()), "no more than the number needs"
    elif pattern == "fan-in":
        assert len(set(rows.sum(1).tolist())) == 1
    else:
        height, width = rows.shape[0] // 2 * 2, rows.shape[1] // 3 * 3
        blocks = rows[:height, :width].reshape(height // 2, 2, width // 3, 3).sum((1, 3))
        assert set(blocks.flatten().tolist()) <= {0, 6}


@pytest.mark.parametrize("name", ["snfs", "granet", "gmp", "edst"])
def test_others_take_a_ramp_or_a_pattern_too(name: str) -> None:
    options = {"initial_density": 0.5} if name in ("snfs", "edst") else {"pattern": "n:16"}
    run = Run(METHODS[name](update_every=8, **options))
    run.train(TOTAL_STEPS)
    assert run.engine.density == pytest.approx(0.2, abs=1e-3)
    if "pattern" in options:
        fewest, *most = sorted(groups_of(run.engine.mask("fc1.weight"), 16))
        assert most in ([], [fewest + 1])


def test_common_options_are_part_of_a_presets_signature() -> None:
    for name in COMPOSED:
        assert {"pattern", "initial_density", "density_until"} <= set(PRESETS[name].parameters), name
        assert all(PRESETS[name].option_texts[option] for option in PRESETS[name].parameters), name
    assert METHODS["rigl"]() == METHODS["rigl"](pattern=None, initial_density=None)
    method = METHODS["rigl"](pattern="n:8", initial_density=1.0)
    assert method.pattern == NofM(8)  # type: ignore[attr-defined]
    assert method.ramp == DensityRamp(1.0, 0.0, 0.75)  # type: ignore[attr-defined]


def test_a_falling_ramp_takes_the_smallest_of_each_group() -> None:
    method = with_ramp(with_pattern(METHODS["set-itop"](update_every=1, drop_fraction=0.0), "n:4"), 1.0, 0.1)  # type: ignore[arg-type]
    run = ByHand(method, [[1.0, 2.0, 3.0, 4.0, 50.0, 60.0, 70.0, 80.0]])
    assert run.active() == [[1, 1, 1, 1, 1, 1, 1, 1]]
    run.step()
    # The ramp ends at step 1 of 10, at two of four: those that are small in their own group go.
    assert run.active() == [[0, 0, 1, 1, 0, 0, 1, 1]]


@pytest.mark.parametrize("name", ["rigl", "dst-ee"])
def test_a_ramp_that_outlasts_the_exploration_is_followed_to_its_end(name: str) -> None:
    run = Run(METHODS[name](update_every=4, until=0.25, initial_density=1.0, density_until=0.75))
    reports: dict[int, UpdateReport] = {}
    run.engine.on_update(lambda report: reports.update({report.step: report}))
    densities = {}
    run.train(TOTAL_STEPS, lambda run: densities.update({run.engine.steps: run.engine.density}))
    # 48 steps: exploration ends at step 12, the ramp at step 36.
    assert list(reports) == list(range(4, 37, 4))
    for step in reports:
        assert densities[step] == pytest.approx(0.2 + 0.8 * (1 - step / 36) ** 3, abs=1e-3)
        assert sum(layer.grown for layer in reports[step].layers) == 0 or step < 12
    assert densities[TOTAL_STEPS] == pytest.approx(0.2, abs=1e-3)


def test_a_network_may_begin_with_nothing_and_grow() -> None:
    run = Run(METHODS["set-itop"](update_every=4, initial_density=1e-20, density_until=0.5))
    assert run.engine.density == 0.0
    assert run.train(TOTAL_STEPS).engine.density == pytest.approx(0.2, abs=1e-3)


def test_nest_begins_with_nothing_where_nothing_is_aimed_at() -> None:
    run = ByHand(METHODS["nest"](update_every=1), [[1.0, 2.0]], sparsity=0.9, total_steps=4)
    assert run.active() == [[0, 0]]
    for _ in range(4):
        run.step([[1.0, 1.0]])
    assert run.active() == [[0, 0]]


def test_patterns_that_do_not_go_with_a_method_are_refused_before_anything_happens() -> None:
    with pytest.raises(ValueError, match="'set' drops single weights, not by scores that a block could add up"):
        Run(METHODS["set"](pattern="4x4"))
    with pytest.raises(ValueError, match="'snfs' moves connections between layers, but a pattern gives each layer"):
        Run(METHODS["snfs"](pattern="n:4"))
    with pytest.raises(ValueError, match=r"pattern must be 'n:M' .* got '2:4'; n follows from the sparsity, write n:4"):
        METHODS["rigl"](pattern="2:4")
    with pytest.raises(ValueError, match=r"initial_density must be in \(0, 1\], got 1.5"):
        METHODS["rigl"](initial_density=1.5)
    with pytest.raises(ValueError, match=r"initial_density must be in \(0, 1\], got 'big'"):
        METHODS["rigl"](initial_density="big")


def test_signed_magnitude_leaves_a_layer_alone_that_was_frozen() -> None:
    method = DropAndGrow("signed", Every(1), ConstantDropFraction(0.5), SignedMagnitudeDrop())
    model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Linear(8, 5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    engine = SparseEngine(model, optimizer, method, sparsity=0.5, total_steps=5)
    model[0].weight.requires_grad_(False)
    before = engine.mask("0.weight"), engine.mask("1.weight")
    model(torch.randn(4, 8)).sum().backward()
    optimizer.step()
    assert torch.equal(engine.mask("0.weight"), before[0])
    assert not torch.equal(engine.mask("1.weight"), before[1])
