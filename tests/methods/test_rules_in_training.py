"""In a real training, at every update: what goes and what comes is what the equation says, by full sorts in numpy."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.methods.workbench import TOTAL_STEPS, Run

from itop.methods import METHODS

Values = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass
class Layer:
    """One layer around an update: weights, gradients and masks before, masks and weights after."""

    weights: Values
    gradients: Values
    before: Mask
    after: Mask = field(default_factory=lambda: np.zeros(0, bool))
    then: Values = field(default_factory=lambda: np.zeros(0, np.float32))


Update = tuple[int, list[Layer]]


def updates(name: str, **options: Any) -> Iterator[tuple[Run, Update]]:
    """Trains, and gives every update of the run."""
    run = Run(METHODS[name](**options))
    layers = run.engine.topology.layers
    found: list[Update] = []

    def mask(name: str) -> Mask:
        return run.engine.mask(name).numpy().ravel().copy()

    def weights(layer: int) -> Values:
        return layers[layer].parameter.detach().numpy().ravel().copy()

    def keep_gradients(*arguments: object) -> None:
        gradients[:] = [layer.parameter.grad.numpy().ravel().copy() for layer in layers]  # type: ignore[union-attr]

    def look(step: int) -> None:
        found.append((step, [Layer(weights(i), gradients[i], mask(layer.name)) for i, layer in enumerate(layers)]))

    def look_again(report: object) -> None:
        for i, (layer, of_layer) in enumerate(zip(layers, found[-1][1], strict=True)):
            of_layer.after, of_layer.then = mask(layer.name), weights(i)

    gradients: list[Values] = []
    run.optimizer.register_step_pre_hook(keep_gradients)
    # Before the engine's own hook, which masks gradients.
    hooks = run.optimizer._optimizer_step_pre_hooks
    hooks.move_to_end(next(reversed(hooks)), last=False)
    run.engine.before_update(look)
    run.engine.on_update(look_again)
    for _ in range(TOTAL_STEPS):
        found.clear()
        run.train(1)
        for update in found:
            yield run, update


def best(scores: npt.NDArray[Any], among: Mask, count: int) -> tuple[Mask, bool]:
    """The largest, and whether others are as large as the last of them."""
    places = np.flatnonzero(among)
    order = places[np.argsort(-scores[places], kind="stable")]
    chosen = np.zeros_like(among)
    chosen[order[:count]] = True
    tied = 0 < count < len(order) and scores[order[count - 1]] == scores[order[count]]
    return chosen, bool(tied)


def cosine(step: int, initial: float, final: float, horizon: float) -> float:
    return final + (initial - final) / 2 * (1 + math.cos(math.pi * min(step / horizon, 1.0)))


def count_of(fraction: float, mask: Mask) -> int:
    return 0 if mask.all() else round(fraction * int(mask.sum()))


Rule = Callable[[int, Layer], tuple[Mask, bool]]
"""The mask after an update, and whether ties left a choice."""


def drop_and_grow(fraction: float, layer: Layer, grown_by: npt.NDArray[Any]) -> tuple[Mask, bool]:
    count = count_of(fraction, layer.before)
    gone, tied = best(-np.abs(layer.weights), layer.before, count)
    kept = layer.before & ~gone
    grown, tied_too = best(grown_by, ~kept, count)
    return kept | grown, tied or tied_too


def rigl(step: int, layer: Layer) -> tuple[Mask, bool]:
    return drop_and_grow(cosine(step, 0.3, 0.0, 0.75 * TOTAL_STEPS), layer, np.abs(layer.gradients))


def rigl_itop(step: int, layer: Layer) -> tuple[Mask, bool]:
    return drop_and_grow(cosine(step, 0.5, 0.005, TOTAL_STEPS), layer, np.abs(layer.gradients))


def gmp(step: int, layer: Layer) -> tuple[Mask, bool]:
    end = 0.75 * TOTAL_STEPS
    target = round(0.2 * layer.before.size)
    left = target + round((layer.before.size - target) * (1 - min(step / end, 1.0)) ** 3)
    return best(np.abs(layer.weights), layer.before, left)


@pytest.mark.parametrize(("name", "rule"), [("rigl", rigl), ("rigl-itop", rigl_itop), ("gmp", gmp)])
def test_masks_after_an_update_are_those_of_the_equation(name: str, rule: Rule) -> None:
    checked = 0
    for _, (step, layers) in updates(name, update_every=5):
        for layer in layers:
            expected, tied = rule(step, layer)
            if not tied:
                assert abs(int((expected ^ layer.after).sum())) <= (1 if name == "gmp" else 0), (name, step)
                checked += 1
    assert checked > 20


def test_set_drops_the_same_share_of_either_sign_and_starts_newcomers_at_zero() -> None:
    checked = 0
    for _, (_, layers) in updates("set", update_every=7):
        for layer in layers:
            if layer.before.all():
                continue
            negative = layer.before & (layer.weights < 0)
            positive = layer.before & ~negative
            low, tied = best(-layer.weights, positive, round(0.3 * int(positive.sum())))
            high, tied_too = best(layer.weights, negative, round(0.3 * int(negative.sum())))
            kept = layer.before & ~(low | high)
            if tied or tied_too:
                continue
            assert (layer.after & kept).sum() == kept.sum()
            assert layer.after.sum() == layer.before.sum()
            assert not layer.then[layer.after & ~kept].any()
            assert (layer.then[kept] == layer.weights[kept]).all()
            checked += 1
    assert checked > 20


def test_granet_goes_to_the_ramp_over_all_layers_then_exchanges_in_each() -> None:
    checked = 0
    for run, (step, layers) in updates("granet", update_every=6):
        total = sum(layer.before.size for layer in layers)
        target = run.engine._context.target_total
        left = target + round((total - target) * (1 - min(step / (0.75 * TOTAL_STEPS), 1.0)) ** 3)
        weights, before = (np.concatenate([getattr(layer, key) for layer in layers]) for key in ("weights", "before"))
        kept, tied = best(np.abs(weights), before, left)
        assert sum(int(layer.after.sum()) for layer in layers) == left
        start = 0
        for layer in layers:
            layer.before = kept[start : start + layer.before.size]
            start += layer.before.size
            fraction = cosine(step, 0.5, 0.005, TOTAL_STEPS)
            expected, tied_too = drop_and_grow(fraction, layer, np.abs(layer.gradients))
            if not (tied or tied_too):
                assert (expected == layer.after).all(), step
                checked += 1
    assert checked > 20


def test_srigl_gives_every_unit_its_largest_gradients() -> None:
    checked = 0
    for run, (step, layers) in updates("srigl", update_every=5, ablation=0.0):
        for of_engine, layer, target in zip(run.engine.layers, layers, run.engine._context.target_counts, strict=True):
            rows = of_engine.shape[0]
            fan_in = max(1, round(target / rows))
            count = count_of(cosine(step, 0.3, 0.0, 0.75 * TOTAL_STEPS), layer.before)
            gone, tied = best(-np.abs(layer.weights), layer.before, count)
            expected = (layer.before & ~gone).reshape(rows, -1)
            gradients = np.abs(layer.gradients).reshape(rows, -1)
            for row, gradient in zip(expected, gradients, strict=True):
                row |= best(gradient, ~row, max(0, fan_in - int(row.sum())))[0]
            assert set(layer.after.reshape(rows, -1).sum(1)) == {fan_in}
            if not tied:
                assert (expected.ravel() == layer.after).all(), step
                checked += 1
    assert checked > 20
