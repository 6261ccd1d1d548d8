"""Loops that people write: scaling, accumulation, clipping, several optimisers, compilation, averages. One process."""

from __future__ import annotations

import copy
import shutil
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.checkpoint import checkpoint

from itop import SparseEngine
from itop.methods import METHODS, Fixed, Method, RigL, RigLITOP
from optimizers_of_others import Lars, Lookahead, ScheduleFree, Shampoo


def make_model(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 32), nn.Tanh(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 4))


def batch(step: int, size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(size, 10, generator=generator), torch.randint(0, 4, (size,), generator=generator)


def loss_of(model: nn.Module, step: int, size: int = 16) -> Tensor:
    inputs, targets = batch(step, size)
    return nn.functional.cross_entropy(model(inputs), targets)


def attach(model: nn.Module, optimizer: Any, method: str | Method = "rigl-itop", **options: Any) -> SparseEngine:
    if isinstance(method, str):
        method = METHODS[method](update_every=2)
    return SparseEngine(model, optimizer, method, sparsity=0.8, total_steps=100, **options)


def assert_exact(engine: SparseEngine) -> None:
    """Counts as the topology says, weights and all state of their shape zero where inactive."""
    topology = engine.topology
    for i, (layer, mask) in enumerate(zip(engine.layers, topology.active.to_tensors(), strict=True)):
        assert int(mask.sum()) == layer.num_active
        assert not topology.local(i)[~mask].count_nonzero(), layer.name
        for state in topology.optimizer_state.states(topology.layers[i]):
            assert not state[~mask].count_nonzero(), layer.name


# --- gradient scaling -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_that_overflows_is_no_step_of_the_engine(kind: type[Optimizer], fused: bool) -> None:
    model = make_model()
    optimizer = kind(model.parameters(), lr=0.1, fused=fused)
    engine = attach(model, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(6):
        optimizer.zero_grad()
        loss = loss_of(model, step)
        scaler.scale(loss * (float("inf") if step in (1, 4) else 1.0)).backward()
        before = engine.topology.digest()
        weights = [parameter.detach().clone() for parameter in model.parameters()]
        scaler.step(optimizer)
        scaler.update()
        if step in (1, 4):
            assert engine.topology.digest() == before
            assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
        assert_exact(engine)
    assert engine.steps == 4
    assert engine.num_updates == 2


def test_bfloat16_autocast_keeps_what_is_inactive_at_zero() -> None:
    model = make_model()
    engine = attach(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    for step in range(5):
        engine.optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(model, step)
        loss.backward()
        engine.optimizer.step()
        assert_exact(engine)
    assert engine.num_updates == 2


# --- accumulation, clipping -------------------------------------------------------------------------------------------


def test_growth_sees_the_gradient_accumulated_over_the_whole_step() -> None:
    results = []
    for parts in (1, 4):
        model = make_model()
        engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.25), RigL(update_every=1))
        inputs, targets = batch(0, 16)
        for x, y in zip(inputs.chunk(parts), targets.chunk(parts), strict=True):
            (nn.functional.cross_entropy(model(x), y, reduction="sum") / 16).backward()
        engine.optimizer.step()
        results.append(engine.topology.digest())
    assert results[0] == results[1]


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop", "rigl"])
def test_norms_before_the_step_see_the_sparse_networks_gradient(method: str) -> None:
    model, plain = make_model(), make_model()
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), method, sparse_gradients=True)
    for step in range(6):
        plain.load_state_dict(model.state_dict())
        plain.zero_grad()
        loss_of(plain, step).backward()
        for layer in engine.layers:
            plain.get_parameter(layer.name).grad *= engine.mask(layer.name)  # type: ignore[operator]
        expected = nn.utils.get_total_norm([p.grad for p in plain.parameters()])  # type: ignore[misc]
        engine.optimizer.zero_grad()
        loss_of(model, step, 8)  # a forward pass without backward changes nothing
        loss_of(model, step).backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        is_dense = method != "set-itop" and (step + 1) % 2 == 0
        assert (norm > expected * 1.01) if is_dense else torch.isclose(norm, expected, rtol=1e-6)
        engine.optimizer.step()
        assert_exact(engine)
    assert engine.num_updates >= 2


def test_masking_gradients_early_does_not_change_the_training() -> None:
    states = []
    for early in (False, True):
        model = make_model()
        engine = attach(model, torch.optim.AdamW(model.parameters(), lr=0.01), sparse_gradients=early)
        for step in range(7):
            engine.optimizer.zero_grad()
            (loss_of(model, step) / 2).backward()
            (loss_of(model, step + 100) / 2).backward()
            engine.optimizer.step()
        states.append([engine.topology.digest(), *(p.detach() for p in model.parameters())])
    assert states[0][0] == states[1][0]
    assert all(torch.equal(a, b) for a, b in zip(states[0][1:], states[1][1:], strict=True))


# --- several optimisers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop", "rigl"])
def test_two_optimisers_step_as_one_does(method: str) -> None:
    digests = []
    for several in (False, True):
        model = make_model()
        first, rest = list(model[0].parameters()), [*model[2].parameters(), *model[4].parameters()]
        optimizers = [torch.optim.AdamW(part, lr=0.01) for part in ([first, rest] if several else [first + rest])]
        engine = attach(model, optimizers if several else optimizers[0], method)
        for step in range(7):
            model.zero_grad()
            loss_of(model, step).backward()
            for optimizer in optimizers:
                optimizer.step()
            assert_exact(engine)
        assert engine.steps == 7
        assert engine.num_updates == 3
        digests.append((engine.topology.digest(), model[2].weight.detach().clone()))
    assert digests[0][0] == digests[1][0]
    assert torch.equal(digests[0][1], digests[1][1])


@pytest.mark.parametrize("method", ["set-itop", "rigl-itop", "rigl"])
def test_optimisers_that_step_while_backward_runs_train_as_one_does(method: str) -> None:
    digests = []
    for in_backward in (False, True):
        model = make_model()
        parameters = list(model.parameters())
        optimizers = [
            torch.optim.SGD(part, lr=0.1, momentum=0.9)
            for part in ([[p] for p in parameters] if in_backward else [parameters])
        ]
        engine = attach(model, optimizers if in_backward else optimizers[0], method)
        if in_backward:
            for parameter, optimizer in zip(parameters, optimizers, strict=True):

                def step_now(_: Tensor, optimizer: Optimizer = optimizer) -> None:
                    optimizer.step()
                    optimizer.zero_grad()

                parameter.register_post_accumulate_grad_hook(step_now)
        for step in range(7):
            model.zero_grad()
            loss_of(model, step).backward()
            if not in_backward:
                optimizers[0].step()
            assert_exact(engine)
        assert engine.num_updates == 3
        digests.append((engine.topology.digest(), model[2].weight.detach().clone()))
    assert digests[0][0] == digests[1][0]
    assert torch.equal(digests[0][1], digests[1][1])


def test_a_member_that_never_steps_does_not_stop_the_engine() -> None:
    model = make_model()
    unused = nn.Parameter(torch.zeros(3))
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD([unused], lr=0.1)]
    engine = attach(model, optimizers, "set-itop")
    for step in range(5):
        model.zero_grad()
        loss_of(model, step).backward()
        optimizers[0].step()
        assert_exact(engine)
    assert engine.steps == 4  # the fifth is under way until the next one begins
    assert engine.num_updates == 2


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_for_matrices_and_adamw_for_the_rest() -> None:
    model = make_model()
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() != 2]
    optimizers = [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(others, lr=0.01)]
    engine = attach(model, optimizers)
    for step in range(6):
        model.zero_grad()
        loss_of(model, step).backward()
        for optimizer in optimizers:
            optimizer.step()
        assert_exact(engine)
    assert engine.num_updates == 3


# --- optimisers of other people -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Lars, Shampoo, ScheduleFree])
@pytest.mark.parametrize("method", ["set-itop", "rigl-itop", "rigl"])
def test_optimisers_that_mix_weights_or_keep_odd_state_stay_exact(kind: Any, method: str) -> None:
    model = make_model()
    engine = attach(model, kind(model.parameters()), method)
    for step in range(8):
        engine.optimizer.zero_grad()
        loss_of(model, step).backward()
        engine.optimizer.step()
        assert_exact(engine)
    assert engine.num_updates == 4


@pytest.mark.parametrize("depth", [1, 2])
def test_the_state_of_an_optimiser_that_another_one_wraps_is_kept_exact(depth: int) -> None:
    model = make_model()
    inner = optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(depth):
        optimizer = Lookahead(optimizer)  # type: ignore[assignment]
    engine = attach(model, optimizer, "rigl-itop")
    for step in range(8):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        assert_exact(engine)
        for layer in engine.topology.layers:
            for name in ("exp_avg", "exp_avg_sq"):
                assert not inner.state[layer.parameter][name][~engine.mask(layer.name)].any()
    assert engine.num_updates == 4


def test_a_wrapper_that_does_not_call_hooks_is_refused_and_what_it_wraps_is_not() -> None:
    timm = pytest.importorskip("timm.optim", reason="the package timm is not installed")
    model = make_model()
    inner = torch.optim.AdamW(model.parameters(), lr=0.01)
    optimizer = timm.Lookahead(inner, k=2)
    with pytest.raises(
        ValueError, match=r"^the optimiser Lookahead does not call hooks, .* that it wraps, or attach=False$"
    ):
        attach(model, optimizer)
    engine = attach(model, inner)
    for step in range(8):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        assert_exact(engine)
    assert engine.num_updates == 4


def test_the_schedule_free_package_keeps_what_is_inactive_at_zero_in_both_modes() -> None:
    schedulefree = pytest.importorskip("schedulefree", reason="the package schedulefree is not installed")
    model = make_model()
    optimizer = schedulefree.AdamWScheduleFree(model.parameters(), lr=0.01)
    engine = attach(model, optimizer)
    for step in range(6):
        optimizer.train()
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        assert_exact(engine)
        optimizer.eval()
        assert_exact(engine)


# --- compilation, checkpointing, averages, schedules ----------------------------------------------------------------------


def test_compiled_model_and_compiled_step_train_as_eager_ones_do() -> None:
    results = []
    for compiled in (False, True):
        torch._dynamo.reset()
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        run = torch.compile(model, backend="eager") if compiled else model
        engine = attach(run, optimizer)
        step_once = torch.compile(optimizer.step, backend="eager") if compiled else optimizer.step
        for step in range(6):
            optimizer.zero_grad()
            loss_of(run, step).backward()
            step_once()
            assert_exact(engine)
        assert engine.steps == 6
        assert [layer.name for layer in engine.layers] == ["0.weight", "2.weight", "4.weight"]
        results.append((engine.topology.digest(), model[2].weight.detach().clone()))
    assert results[0][0] == results[1][0]
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler, g++ is not installed")
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_step_compiled_to_native_code_is_masked_and_moves_the_masks(kind: type[Optimizer]) -> None:
    torch._dynamo.reset()
    model, twin = make_model(), make_model()
    optimizer, its_optimizer = kind(model.parameters(), lr=0.01), kind(twin.parameters(), lr=0.01)
    engine = attach(model, optimizer, "rigl")
    attach(twin, its_optimizer, "rigl")
    step_once = torch.compile(optimizer.step)
    digests = {engine.topology.digest()}
    for step in range(6):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        step_once()
        assert_exact(engine)
        digests.add(engine.topology.digest())
        if step == 0:
            loss_of(twin, step).backward()
            its_optimizer.step()
            for mine, its in zip(model.parameters(), twin.parameters(), strict=True):
                torch.testing.assert_close(mine, its)  # compiled arithmetic rounds otherwise
    assert engine.steps == 6
    assert engine.num_updates == 3
    assert len(digests) == 4


def test_a_compiled_part_of_a_model_has_the_layers_names_of_an_eager_one() -> None:
    model = make_model()
    model[2] = torch.compile(model[2], backend="eager")  # type: ignore[assignment]
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [layer.name for layer in engine.layers] == ["0.weight", "2.weight", "4.weight"]


def test_changing_masks_does_not_compile_the_model_again() -> None:
    torch._dynamo.reset()
    model = make_model()
    count = 0

    def backend(graph: Any, inputs: Any) -> Any:
        nonlocal count
        count += 1
        return graph.forward

    run = torch.compile(model, backend=backend)
    engine = attach(run, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(6):
        engine.optimizer.zero_grad()
        loss_of(run, step).backward()
        engine.optimizer.step()
    assert engine.num_updates == 3
    assert count == 1


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = make_model()

    def forward(self, inputs: Tensor) -> Tensor:
        return checkpoint(self.model, inputs, use_reentrant=False)  # type: ignore[no-any-return]


def test_activation_checkpointing_changes_no_mask() -> None:
    digests = []
    for wrap in (make_model, Checkpointed):
        model = wrap()
        engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for step in range(6):
            engine.optimizer.zero_grad()
            loss_of(model, step).backward()
            engine.optimizer.step()
        digests.append(engine.topology.digest())
    assert digests[0] == digests[1]


def test_checkpoint_wrappers_do_not_show_in_names() -> None:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = nn.Sequential(checkpoint_wrapper(nn.Linear(4, 4)), nn.Linear(4, 4))
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert [layer.name for layer in engine.layers] == ["0.weight", "1.weight"]


def test_an_average_of_the_weights_is_an_ordinary_model() -> None:
    model = make_model()
    keys = list(model.state_dict())
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for step in range(6):
        engine.optimizer.zero_grad()
        loss_of(model, step).backward()
        engine.optimizer.step()
        average.update_parameters(model)
    assert (
        list(model.state_dict())
        == keys
        == [key.removeprefix("module.") for key in average.state_dict() if key != "n_averaged"]
    )
    for layer in engine.layers:  # dropped weights fade in the average: it holds the union of recent masks
        averaged = average.module.get_parameter(layer.name)
        assert averaged[engine.mask(layer.name)].count_nonzero() > 0
    model.load_state_dict(average.module.state_dict())
    engine.optimizer.zero_grad()
    loss_of(model, 9).backward()
    engine.optimizer.step()
    assert_exact(engine)


def test_a_copy_of_the_model_is_free_of_the_engine() -> None:
    model = make_model()
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1), sparse_gradients=True)
    twin = copy.deepcopy(model)
    before = engine.topology.digest()
    loss_of(twin, 0).backward()
    assert twin[0].weight.grad is not None
    assert twin[0].weight.grad[~engine.mask("0.weight")].count_nonzero() > 0
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    assert engine.topology.digest() == before
    assert engine.steps == 0


@pytest.mark.parametrize("before", [True, False])
def test_schedulers_made_before_or_after_the_engine_step_alike(before: bool) -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if before:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    engine = attach(model, optimizer)
    if not before:
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    for step in range(4):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        scheduler.step()
    assert engine.steps == 4
    assert scheduler.get_last_lr() == pytest.approx([0.001])


@pytest.mark.gpu
def test_a_replayed_cuda_graph_is_followed_by_calling_the_engine() -> None:
    """Hooks run while a graph is captured, not when it is replayed: ``attach=False`` and one call after each replay."""
    model = make_model().cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = attach(model, optimizer, attach=False)
    inputs, targets = (tensor.cuda() for tensor in batch(0))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            engine.step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad()
    with torch.cuda.graph(graph):
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    pointers = [parameter.data_ptr() for parameter in model.parameters()]
    for step in range(6):
        for static, fresh in zip((inputs, targets), batch(step), strict=True):
            static.copy_(fresh)
        graph.replay()
        engine.step()
        assert_exact(engine)
    assert engine.num_updates >= 3
    assert pointers == [parameter.data_ptr() for parameter in model.parameters()]


def test_rigl_itop_and_rigl_are_what_these_loops_used() -> None:
    """The loops above mean something only if these two need gradients, and one of them replaces steps."""
    assert RigL().needs_gradient
    assert RigLITOP().needs_gradient
    assert RigL().timing is not RigLITOP().timing


# --- fine-tuning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False], ids=["masks", "zeros"])
def test_fine_tuning_keeps_the_masks_of_a_checkpoint(given: bool) -> None:
    model = make_model()
    engine = attach(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(5):
        engine.optimizer.zero_grad()
        loss_of(model, step).backward()
        engine.optimizer.step()
    saved, masks = model.state_dict(), {layer.name: engine.mask(layer.name) for layer in engine.layers}

    tuned = make_model(1)
    tuned.load_state_dict(saved)
    method = Fixed(masks) if given else "fixed"
    optimizer = torch.optim.AdamW(tuned.parameters(), lr=0.01)
    its_engine = SparseEngine(tuned, optimizer, method, sparsity=0.8)
    assert all(torch.equal(value, saved[name]) for name, value in tuned.state_dict().items())
    for step in range(5, 9):
        optimizer.zero_grad()
        loss_of(tuned, step).backward()
        optimizer.step()
        assert_exact(its_engine)
    for name, mask in masks.items():
        expected = mask if given else mask & (saved[name] != 0)
        assert torch.equal(its_engine.mask(name), expected)
    assert not torch.equal(tuned[0].weight, saved["0.weight"])
    assert its_engine.num_updates == 0
