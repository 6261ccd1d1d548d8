"""One run, several networks, by hand: when they are set aside, what they hold, what happens between them."""

from __future__ import annotations

import pytest
import torch
from tests.methods.by_hand import ByHand, preset
from tests.methods.pins import pins
from tests.methods.workbench import BATCHES, Run

WEIGHTS = [[4.0, -3.0, 2.0, -1.0, 0.0, 0.0, 0.0, 0.0]]
MASK = [[[1, 1, 1, 1, 0, 0, 0, 0]]]


def two_tickets(**options: object) -> ByHand:
    """12 steps: exploration until 4, tickets at 8 and 12; an update every 4 steps drops one weight of four."""
    settings = {"update_every": 4, "tickets": 2, "drop_fraction": 0.25, "escape_fraction": 0.75, **options}
    return ByHand(preset("edst", **settings), WEIGHTS, masks=MASK, total_steps=12)


@pins("edst")
def test_edst_drops_the_smallest_and_three_times_as_many_once_a_ticket_is_drawn() -> None:
    run = two_tickets()
    reports = {step: report for step in range(1, 13) if (report := run.step()) is not None and report.step == step}
    assert {step: (report.dropped, report.grown) for step, report in reports.items()} == {4: (1, 1), 8: (3, 3)}
    # -1 went at step 4. At 8 three of {4, -3, 2, the newly grown 0} go: all but 4. Nothing is replaced at the very end.
    assert run.weights()[0, 0] == 4.0
    assert run.weights()[0, 1:].tolist() == [0.0] * 7
    assert sum(run.active()[0]) == 4


@pins("edst")
def test_edst_sets_the_network_aside_before_it_leaves_its_basin() -> None:
    run = two_tickets()
    for _ in range(7):
        run.step()
    assert run.engine.tickets() == []
    run.step()
    (first,) = run.engine.tickets()
    assert first["0.weight"].tolist() == [[4.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]]
    for _ in range(4):
        run.step()
    tickets = run.engine.tickets()
    assert [ticket["0.weight"].tolist() for ticket in tickets] == [
        [[4.0, -3.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0]],
        [[4.0] + [0.0] * 7],
    ]


def test_edst_explores_at_the_first_rate_and_refines_by_the_second_half_of_the_schedule_each_time() -> None:
    method = preset("edst", tickets=2)
    progress = [method.schedule_progress(step, 12) for step in range(12)]
    assert progress == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8, *(1 / 2, 5 / 8, 6 / 8, 7 / 8) * 2])


def test_edst_grows_by_gradient_where_asked_to() -> None:
    run = two_tickets(by_gradient=True)
    for _ in range(3):
        run.step()
    run.step([[0.0, 0.0, 0.0, 0.0, 1.0, -5.0, 2.0, 3.0]])
    assert run.active() == [[1, 1, 1, 0, 0, 1, 0, 0]]


def test_the_last_ticket_is_the_trained_model_and_each_is_one_the_model_loads() -> None:
    run = Run("edst").train(48)
    tickets = run.engine.tickets()
    assert len(tickets) == 3
    state = run.model.state_dict()
    assert all(torch.equal(tickets[-1][name], value) for name, value in state.items())
    outputs = []
    for ticket in tickets:
        run.model.load_state_dict(ticket)
        outputs.append(run.model.eval()(BATCHES[0][0]))
    assert not torch.equal(outputs[0], outputs[1])
    for ticket in tickets:
        active = sum(int(torch.count_nonzero(ticket[layer.name])) for layer in run.engine.layers)
        assert active <= sum(layer.num_active for layer in run.engine.layers)


def test_edst_says_when_a_run_is_too_short_for_its_tickets() -> None:
    with pytest.raises(ValueError, match="'edst' draws 3 tickets, which takes more than total_steps=8"):
        Run("edst", total_steps=8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tickets": 1}, "tickets must be a whole number of at least 2, got 1"),
        ({"exploration": 1.0}, r"exploration must be in \(0, 1\), got 1.0"),
        ({"escape_fraction": 1.5}, r"escape_fraction must be in \[0, 1\], got 1.5"),
    ],
)
def test_options_outside_their_range_are_named(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset("edst", **options)
