"""The loss between two tickets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from itop.analysis import LossPath, interpolate_tickets, loss_between_tickets, union_masks


def ticket(*weights: float) -> dict[str, Tensor]:
    return {"weight": torch.tensor([weights])}


def test_interpolation_is_linear_and_exact_at_both_ends() -> None:
    first = {"w": torch.tensor([0.1, 0.0, 3.0]), "n": torch.tensor(3)}
    second = {"w": torch.tensor([0.7, 1.0, 0.0]), "n": torch.tensor(8)}
    assert torch.equal(interpolate_tickets(first, second, 0.0)["w"], first["w"])
    assert torch.equal(interpolate_tickets(first, second, 1.0)["w"], second["w"])
    quarter = interpolate_tickets(first, second, 0.25)
    torch.testing.assert_close(quarter["w"], torch.tensor([0.25, 0.25, 2.25]))
    assert quarter["n"] == 3
    assert interpolate_tickets(first, second, 0.75)["n"] == 8


def test_loss_along_the_line_and_its_barrier_by_hand() -> None:
    model = nn.Linear(2, 1, bias=False)
    own = model.weight.detach().clone()
    storage = model.weight.data_ptr()
    # Product of the two weights: (1 - a) * a between (1, 0) and (0, 1).
    path = loss_between_tickets(
        model,
        ticket(1.0, 0.0),
        ticket(0.0, 1.0),
        evaluate=lambda network: float(network.weight.detach().prod()),  # type: ignore[operator, union-attr]
        positions=(0.0, 0.25, 0.5, 1.0),
        masks=({"weight": torch.tensor([[True, False]])}, {"weight": torch.tensor([[False, True]])}),
    )
    assert path.losses == pytest.approx((0.0, 0.1875, 0.25, 0.0))
    assert path.barrier == pytest.approx(0.25)
    assert path.union_density == 1.0
    assert torch.equal(model.weight, own)
    assert model.weight.data_ptr() == storage


def test_a_barrier_is_above_the_line_between_the_ends() -> None:
    assert LossPath((0.0, 0.5, 1.0), (1.0, 2.5, 3.0), None).barrier == pytest.approx(0.5)
    assert LossPath((0.0, 0.5, 1.0), (1.0, 1.5, 3.0), None).barrier == 0.0


def test_weights_outside_a_tickets_mask_do_not_count() -> None:
    masks = ({"weight": torch.tensor([[True, False]])}, {"weight": torch.tensor([[True, False]])})
    path = loss_between_tickets(
        nn.Linear(2, 1, bias=False),
        ticket(1.0, 9.0),
        ticket(3.0, 9.0),
        evaluate=lambda network: float(network.weight.detach().sum()),  # type: ignore[operator, union-attr]
        masks=masks,
    )
    assert len(path.positions) == 21
    assert path.losses[0] == 1.0
    assert path.losses[10] == pytest.approx(2.0)
    assert path.union_density == 0.5


def test_the_model_is_put_back_when_evaluation_fails() -> None:
    model = nn.BatchNorm1d(2)
    own = {name: value.clone() for name, value in model.state_dict().items()}
    other = {name: value + 1 for name, value in own.items()}

    def fail(network: nn.Module) -> float:
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        loss_between_tickets(model, other, other, fail)
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())


def test_union_holds_what_either_ticket_has() -> None:
    union = union_masks({"a": torch.tensor([True, False, False])}, {"a": torch.tensor([False, True, False])})
    assert union["a"].tolist() == [True, True, False]


def test_tickets_that_do_not_fit_are_named() -> None:
    model = nn.Linear(2, 1, bias=False)
    with pytest.raises(ValueError, match="positions must ascend from 0 to 1"):
        loss_between_tickets(model, ticket(1, 2), ticket(1, 2), lambda _: 0.0, positions=(0.5, 1.0))
    with pytest.raises(ValueError, match="weight must have one shape on both sides"):
        interpolate_tickets(ticket(1.0), ticket(1.0, 2.0), 0.5)
    with pytest.raises(ValueError, match=r"position must be in \[0, 1\], got 1.5"):
        interpolate_tickets(ticket(1.0), ticket(1.0), 1.5)
    odd = {"odd": torch.ones(1, dtype=torch.bool)}
    with pytest.raises(ValueError, match="masks must name weights of the tickets, got odd"):
        loss_between_tickets(model, ticket(1, 2), ticket(1, 2), lambda _: 0.0, masks=(odd, odd))


def test_a_ticket_may_be_the_state_of_the_model_itself() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.0)
    path = loss_between_tickets(
        model,
        ticket(1.0),
        model.state_dict(),
        evaluate=lambda network: float(network.weight.detach()),  # type: ignore[operator, union-attr, arg-type]
        positions=(0.0, 0.5, 1.0),
    )
    assert path.losses == (1.0, 2.0, 3.0)
