#!/usr/bin/env python3
"""Topology updates and mask application on a GPU, beside the time of moving the bytes and beside torch.topk per layer.

Every figure is the median of repeated runs in one process. Floors are measured, not taken from a data sheet: the bandwidth is
that of a device-to-device copy (bytes read plus bytes written). Run it through ``scripts/gpu bench``, or alone::

    python benchmarks/gpu_update.py --billion --step --out benchmarks/results/
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from itop import SparseEngine, _core
from itop.models import build_model

DENSITY = 0.1
DROP_FRACTION = 0.3


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        what: What was measured.
        microseconds: Median.
        against: What it is compared with.
        against_microseconds: That one's time.
        ratio: ``microseconds / against_microseconds``, or its inverse where ``against`` is a peer.
        limit: What the ratio should be.
    """

    what: str
    microseconds: float
    against: str
    against_microseconds: float
    ratio: float
    limit: str


class Clock:
    """Times calls on a device: everything a call has given to it counts, and so does the host until the call returns."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.repeats = repeats

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def microseconds(self, call: Callable[[], object], prepare: Callable[[], object] | None = None) -> float:
        """Median over repeats, after warm-up. ``prepare`` runs before each and is not counted."""
        times = []
        for repeat in range(self.repeats + 3):
            if prepare is not None:
                prepare()
            self.synchronize()
            start = time.perf_counter()
            call()
            self.synchronize()
            if repeat >= 3:
                times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e6

    def queued_microseconds(self, call: Callable[[], object], calls: int = 20) -> float:
        """Time a call takes on the device when many are queued, so that the host's share is hidden."""

        def many() -> None:
            for _ in range(calls):
                call()

        return self.microseconds(many) / calls

    def device_microseconds(self, call: Callable[[], object], calls: int = 20) -> float:
        """Time a call takes on the device alone: replayed from a CUDA graph, which launches without the host."""
        if self.device.type != "cuda":
            return self.queued_microseconds(call, calls)
        call()
        self.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                call()
        return self.microseconds(graph.replay) / calls

    def kernel_microseconds(self, call: Callable[[], object], prepare: Callable[[], object]) -> float:
        """Sum of the times of the kernels and copies of a call, without the gaps between them; 0 where nothing can tell."""
        if self.device.type != "cuda":
            return 0.0
        times = []
        for _ in range(5):
            prepare()
            self.synchronize()
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
                call()
                self.synchronize()
            times.append(sum(event.self_device_time_total for event in profile.key_averages()))
        return statistics.median(times)


class NativeUpdate:
    """A model's update below the Python engine: select, select, commit, on flat layers with one state tensor each."""

    def __init__(self, sizes: Sequence[int], device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        layers = [(f"layer{i}", 0, (1, 1, 1, size), (0, 0, 0, 1)) for i, size in enumerate(sizes)]
        self.store = _core.MaskStore(layers, device.type, device.index or 0, 1, self.stream)
        self.weights = [torch.randn(size, device=device, dtype=dtype) for size in sizes]
        self.gradients = [torch.randn(size, device=device, dtype=dtype) for size in sizes]
        self.states = [torch.randn(size, device=device, dtype=dtype) for size in sizes]
        self.num_active = [max(1, int(DENSITY * size)) for size in sizes]
        self.num_changed = [max(1, int(DROP_FRACTION * active)) for active in self.num_active]
        self.number = 0
        self.nothing: list[Tensor | None] = [None] * len(sizes)
        self.full = self.store.full(self.stream)
        self.commit(self.store.empty(self.stream), self.select(self.full, self.nothing, self.num_active, 0, True))

    @property
    def stream(self) -> int:
        return torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0

    @property
    def tensors(self) -> list[list[Tensor]]:
        return [list(pair) for pair in zip(self.weights, self.states, strict=True)]

    def select(
        self, candidates: _core.BitSets, scores: Sequence[Tensor | None], k: Sequence[int], draw: int, largest: bool
    ) -> _core.BitSets:
        return self.store.select(
            candidates,
            scores,
            magnitude=True,
            largest=largest,
            k=k,
            across_layers=False,
            update=self.number,
            draw=draw,
            reduction=None,
            stream=self.stream,
        )

    def commit(self, dropped: _core.BitSets, grown: _core.BitSets) -> None:
        self.store.commit(
            dropped,
            grown,
            self.tensors,
            zero_all_inactive=False,
            regrown_keeps_value=False,
            marks_reliable=True,
            stream=self.stream,
        )

    def update(self, by_gradient: bool) -> None:
        self.number += 1
        dropped = self.select(self.store.active, self.weights, self.num_changed, 0, False)
        kept = self.store.active.difference(dropped, self.stream)
        free = self.full.difference(kept, self.stream)
        grown = self.select(free, self.gradients if by_gradient else self.nothing, self.num_changed, 1, True)
        self.commit(dropped, grown)

    def refresh(self) -> None:
        """Trained weights are not zero: grown ones get values between updates."""
        for weight, state in zip(self.weights, self.states, strict=True):
            weight.normal_()
            state.normal_()
        self.store.apply(self.tensors, self.stream)


class PerLayerTopK:
    """The usual way on a GPU: layer by layer, bool masks, torch.topk or torch.sort for thresholds, counts read each time."""

    def __init__(self, update: NativeUpdate, full_sort: bool) -> None:
        self.weights = [weight.clone() for weight in update.weights]
        self.states = [state.clone() for state in update.states]
        self.gradients = update.gradients
        self.full_sort = full_sort
        self.masks = [torch.rand(w.shape, device=w.device) < DENSITY for w in self.weights]

    def best(self, scores: Tensor, k: int, largest: bool) -> Tensor:
        if self.full_sort:
            return torch.sort(scores, descending=largest).indices[:k]
        return torch.topk(scores, k, largest=largest, sorted=False).indices

    def update(self, by_gradient: bool) -> None:
        for weight, state, gradient, mask in zip(self.weights, self.states, self.gradients, self.masks, strict=True):
            k = max(1, int(DROP_FRACTION * int(mask.sum().item())))
            dropped = self.best(torch.where(mask, weight.abs(), torch.inf), k, largest=False)
            mask[dropped] = False
            if by_gradient:
                grown = self.best(torch.where(mask, -1.0, gradient.abs()), k, largest=True)
            else:
                grown = self.best(torch.where(mask, -1.0, torch.rand(mask.shape, device=mask.device)), k, largest=True)
            mask[grown] = True
            weight[dropped] = 0
            weight[grown] = 0
            state[dropped] = 0
            state[grown] = 0
            weight.mul_(mask)


def copy_bandwidth(clock: Clock, device: torch.device, num_bytes: int) -> float:
    """Bytes read plus bytes written a microsecond, of the largest copy that is asked for."""
    source = torch.ones(num_bytes // 4, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() * 4 / clock.queued_microseconds(lambda: target.copy_(source), 5)


def update_figures(
    name: str, clock: Clock, update: NativeUpdate, bandwidth: float, limit: str, peers: bool
) -> Iterator[Figure]:
    value_bytes = sum(weight.numel() * weight.element_size() for weight in update.weights)
    for by_gradient in (False, True):
        kind = f"{name}, grown {'by gradient' if by_gradient else 'at random'}"
        ours = clock.microseconds(lambda grows=by_gradient: update.update(grows), update.refresh)
        floor = 2 * value_bytes / bandwidth
        yield Figure(f"update of {kind}", ours, "reading weights and gradients once", floor, ours / floor, limit)
        kernels = clock.kernel_microseconds(lambda grows=by_gradient: update.update(grows), update.refresh)
        if kernels > 0:
            yield Figure(f"  its kernels, {kind}", kernels, "the same", floor, kernels / floor, limit)
        if not peers:
            continue
        for full_sort in (False, True):
            peer = PerLayerTopK(update, full_sort)
            theirs = clock.microseconds(lambda grows=by_gradient, usual=peer: usual.update(grows))
            way = f"torch.{'sort' if full_sort else 'topk'} per layer"
            yield Figure(f"update of {kind}", ours, way, theirs, theirs / ours, "at least 20")


def apply_figures(name: str, clock: Clock, update: NativeUpdate) -> Iterator[Figure]:
    def zero() -> None:
        torch._foreach_zero_(update.weights)

    def masked() -> None:
        update.store.apply([[weight] for weight in update.weights], update.stream)

    floor = clock.device_microseconds(zero)
    update.refresh()
    ours = clock.device_microseconds(masked)
    yield Figure(f"masks applied to {name}", ours, "writing zeros to all weights", floor, ours / floor, "at most 1.3")


def step_figures(clock: Clock, device: torch.device, batch: int) -> Iterator[Figure]:
    """A training step of ResNet-50 with the engine attached, beside the same step without."""
    images = torch.randn(batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    labels = torch.randint(0, 1000, (batch,), device=device)
    times = []
    for masked in (False, True):
        torch.manual_seed(0)
        model = build_model("resnet50", num_classes=1000, input_shape=(3, 224, 224))
        model = model.to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=device.type == "cuda")
        if masked:
            SparseEngine(model, optimizer, "static", sparsity=0.9)

        def step(model: torch.nn.Module = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        times.append(clock.queued_microseconds(step, 5))
    dense, masked_time = times
    what = f"training step of ResNet-50, batch {batch}, masked"
    yield Figure(what, masked_time, "the same step without masks", dense, masked_time / dense, "at most 1.005")


def resnet50_sizes() -> list[int]:
    model = build_model("resnet50", num_classes=1000, input_shape=(3, 224, 224))
    return [parameter.numel() for parameter in model.parameters() if parameter.dim() > 1]


def commit_of_checkout() -> str:
    """What the environment says, else git."""
    if "COMMIT" in os.environ:
        return os.environ["COMMIT"]
    try:
        return subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--billion", action="store_true", help="also a model of a billion weights (20 GB)")
    parser.add_argument("--step", action="store_true", help="also a training step of ResNet-50 with and without masks")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--sizes", type=lambda text: [int(size) for size in text.split(",")], help="layers to use instead"
    )
    parser.add_argument("--out", type=Path, help="folder for the figures as JSON")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit(f"no CUDA device: the core says '{_core.build_info()['cuda_status']}'")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    clock = Clock(device, arguments.repeats)
    bandwidth = copy_bandwidth(clock, device, (1 << 30) if device.type == "cuda" else (1 << 26))
    figures: list[Figure] = []
    path: Path | None = None
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        label = "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()
        path = arguments.out / f"gpu-update-{label}-{commit_of_checkout()}.json"

    def save() -> None:
        """Writes what there is so far: the machine may be lent for a while only."""
        record = {
            "device": name,
            "commit": commit_of_checkout(),
            "torch": torch.__version__,
            "build": _core.build_info(),
            "copy_bytes_per_second": bandwidth * 1e6,
            "figures": [asdict(figure) for figure in figures],
        }
        if path is not None:
            path.write_text(json.dumps(record, indent=2) + "\n")

    def show(rows: Iterator[Figure]) -> None:
        for row in rows:
            figures.append(row)
            print(
                f"{row.what:58} {row.microseconds:12.1f} us   {row.against:38} {row.against_microseconds:12.1f} us"
                f"   {row.ratio:7.2f}   ({row.limit})",
                flush=True,
            )
        save()

    print(f"{name}, commit {commit_of_checkout()}, copy {bandwidth / 1e6:.2f} TB/s")
    sizes = arguments.sizes or resnet50_sizes()
    for dtype in (torch.float32, torch.bfloat16):
        kind = f"{sum(sizes) / 1e6:.1f} M weights, {str(dtype).removeprefix('torch.')}"
        update = NativeUpdate(sizes, device, dtype)
        show(update_figures(kind, clock, update, bandwidth, "at most 3", peers=dtype == torch.float32))
        show(apply_figures(kind, clock, update))
        del update
    if arguments.billion:
        update = NativeUpdate([4096 * 4096] * 60, device, torch.float32)
        show(update_figures("1.0 G weights, float32", clock, update, bandwidth, "at most 2", peers=False))
        show(apply_figures("1.0 G weights, float32", clock, update))
        del update
    if arguments.step:
        show(step_figures(clock, device, arguments.batch_size))
    if path is not None:
        print(path)


if __name__ == "__main__":
    main()
