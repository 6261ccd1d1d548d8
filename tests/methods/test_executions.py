"""The truly sparse execution has the masked one's topology: the same masks at every step, losses equal within rounding."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itop import SparseEngine
from itop.methods import METHODS, Method
from itop.nn import SparseLayer, sparsify

STEPS = 24
NUM_CLASSES = 5

SETTINGS: dict[str, Callable[[], Method]] = {
    "static": METHODS["static"],
    "set": lambda: METHODS["set"](update_every=4),
    "set-itop": lambda: METHODS["set-itop"](update_every=4),
    "rigl": lambda: METHODS["rigl"](update_every=4),
    "rigl-itop": lambda: METHODS["rigl-itop"](update_every=5),
    "gmp": lambda: METHODS["gmp"](update_every=3),
    "snfs": lambda: METHODS["snfs"](update_every=6),
}

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=2e-3),
}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(40, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, NUM_CLASSES))


def convolutions() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 5, 8)),
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=2, bias=False),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 3 * 4, NUM_CLASSES),
    )


MODELS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convolutions": convolutions}


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    centres = 2 * torch.randn(NUM_CLASSES, 40, generator=generator)
    labels = torch.randint(NUM_CLASSES, (STEPS, 32), generator=generator)
    return [(centres[y] + torch.randn(32, 40, generator=generator), y) for y in labels]


class Run:
    """One model, optimiser and engine; ``sparse`` decides the execution, nothing else."""

    def __init__(self, model: str, method: str, optimizer: str, sparse: bool, keep_dense: tuple[str, ...] = ()) -> None:
        torch.manual_seed(0)
        self.model = MODELS[model]()
        if sparse:
            masks = {layer.name: self.mask_of(method, layer.name) for layer in self.engine_of(method, optimizer).layers}
            sparsify(
                self.model,
                {name: mask for name, mask in masks.items() if name not in keep_dense},
                memory_demands_it=True,
            )
            assert any(isinstance(module, SparseLayer) for module in self.model.modules())
        self.engine = self.engine_of(method, optimizer)
        self.losses: list[float] = []

    def engine_of(self, method: str, optimizer: str) -> SparseEngine:
        self.optimizer = OPTIMIZERS[optimizer](self.model)
        return SparseEngine(self.model, self.optimizer, SETTINGS[method](), sparsity=0.8, total_steps=STEPS, seed=5)

    def mask_of(self, method: str, name: str) -> Tensor:
        """The masks that an engine of this seed begins with, of a model that is trained no further."""
        model = copy.deepcopy(self.model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        return SparseEngine(model, optimizer, SETTINGS[method](), sparsity=0.8, total_steps=STEPS, seed=5).mask(name)

    def train(self, data: list[tuple[Tensor, Tensor]]) -> None:
        for x, y in data:
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())

    def masks(self) -> dict[str, Tensor]:
        return {layer.name: self.engine.mask(layer.name) for layer in self.engine.layers}

    def save(self) -> bytes:
        buffer = io.BytesIO()
        states = (self.model.state_dict(), self.optimizer.state_dict(), self.engine.state_dict())
        torch.save(states, buffer)
        return buffer.getvalue()

    def load(self, content: bytes) -> None:
        model, optimizer, engine = torch.load(io.BytesIO(content), weights_only=True)
        self.model.load_state_dict(model)
        self.optimizer.load_state_dict(optimizer)
        self.engine.load_state_dict(engine)


def assert_same_topology(masked: Run, sparse: Run) -> None:
    for name, mask in masked.masks().items():
        assert torch.equal(mask, sparse.engine.mask(name)), name
    assert masked.engine.layers == sparse.engine.layers  # names, shapes, active, explored and reliable counts
    assert masked.engine.last_update == sparse.engine.last_update


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("model", MODELS)
def test_both_executions_have_the_same_masks_at_every_step(model: str, method: str, optimizer: str) -> None:
    masked, sparse = Run(model, method, optimizer, sparse=False), Run(model, method, optimizer, sparse=True)
    assert_same_topology(masked, sparse)
    for batch in batches():
        masked.train([batch])
        sparse.train([batch])
        assert_same_topology(masked, sparse)
    # Sums over active weights in another order, through 24 steps.
    assert sparse.losses == pytest.approx(masked.losses, rel=2e-3, abs=2e-4)
    assert sparse.losses[-1] < sparse.losses[0]
    assert method == "static" or sparse.engine.num_updates >= 3


@pytest.mark.parametrize("method", SETTINGS)
def test_a_run_that_is_saved_and_loaded_goes_on_bit_for_bit(method: str) -> None:
    data = batches()
    whole = Run("mlp", method, "adam", sparse=True)
    whole.train(data[:11])
    saved = whole.save()
    whole.train(data[11:])
    resumed = Run("mlp", method, "adam", sparse=True)
    resumed.load(saved)
    resumed.train(data[11:])
    assert resumed.losses == whole.losses[11:]
    assert_same_topology(whole, resumed)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_layers_with_a_dense_weight_stay_masked_beside_truly_sparse_ones() -> None:
    masked = Run("mlp", "rigl-itop", "sgd", sparse=False)
    mixed = Run("mlp", "rigl-itop", "sgd", sparse=True, keep_dense=("2.weight",))
    assert isinstance(mixed.model[2], nn.Linear)
    data = batches()
    masked.train(data)
    mixed.train(data)
    assert_same_topology(masked, mixed)
    assert not mixed.model[2].weight[~mixed.engine.mask("2.weight")].any()


def test_the_topology_of_either_execution_loads_into_the_other() -> None:
    masked, sparse = Run("mlp", "set-itop", "sgd", sparse=False), Run("mlp", "set-itop", "sgd", sparse=True)
    masked.train(batches())
    state = masked.engine.state_dict()
    sparse.engine.load_state_dict(state)
    assert masked.engine.layers == sparse.engine.layers
    fresh = Run("mlp", "set-itop", "sgd", sparse=False)
    fresh.engine.load_state_dict(sparse.engine.state_dict())
    assert masked.engine.layers == fresh.engine.layers
    for name, mask in masked.masks().items():
        assert torch.equal(mask, sparse.engine.mask(name))
        assert torch.equal(mask, fresh.engine.mask(name))
