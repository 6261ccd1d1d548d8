"""What all ranks must have alike: every rank learns what every other has, so that all refuse or none does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn

from itop.distributed.meeting import Meeting
from itop.distributed.shards import is_sharded

Result = TypeVar("Result")

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class LayerDigest:
    """One rank's part of a layer: where it lies, and 128 bits of its topology."""

    name: str
    place: tuple[tuple[int, ...] | None, tuple[int, ...]]
    digest: bytes


class Ranks:
    """The processes that train one model together.

    Args:
        groups: Process groups to gather over one after the other, so that all processes are reached; none: alone.
        is_collective: Whether every rank is known to make the engine: the model itself is shared between ranks.
        data_parallel: The group of ranks that each hold the whole model and average gradients.
        peers: The ranks that share the model, this one among them; none: there is one process.
    """

    def __init__(
        self,
        groups: Sequence[dist.ProcessGroup] = (),
        is_collective: bool = False,
        data_parallel: dist.ProcessGroup | None = None,
        peers: Sequence[int] = (),
    ) -> None:
        self._groups = tuple(groups)
        self._data_parallel = data_parallel
        self._peers = tuple(peers)
        self._meeting: Meeting | None = None
        self.is_collective = is_collective

    @classmethod
    def of(cls, model: object) -> Ranks:
        """The ranks that share a model: over its data-parallel group and the meshes of its parameters.

        A plain model may be one process's own affair; its ranks are asked only when :meth:`gather` is called for.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        groups: list[dist.ProcessGroup] = []
        peers = [dist.get_rank()]
        inner: object = getattr(model, "_orig_mod", model)
        data_parallel = None
        if isinstance(inner, nn.parallel.DistributedDataParallel):
            data_parallel = inner.process_group
            groups.append(data_parallel)
            peers = dist.get_process_group_ranks(data_parallel)
        parameters = model.parameters() if isinstance(model, nn.Module) else ()
        mesh = max(
            (parameter.device_mesh for parameter in parameters if is_sharded(parameter)),
            key=lambda mesh: (mesh.ndim, mesh.size()),
            default=None,
        )
        if mesh is not None:
            groups += [mesh.get_group(dim) for dim in range(mesh.ndim) if mesh.size(dim) > 1]
            peers = mesh.mesh.flatten().tolist()
        if groups:
            return cls(groups, is_collective=True, data_parallel=data_parallel, peers=peers)
        assert dist.group.WORLD is not None
        return cls([dist.group.WORLD], peers=[dist.get_rank()])

    def gather(self, mine: Any) -> dict[int, Any]:
        """What each rank gave, by rank. Every rank must call it."""
        if not self._groups:
            return {0: mine}
        known = {dist.get_rank(): mine}
        for group in self._groups:
            gathered: list[dict[int, Any]] = [{} for _ in range(dist.get_world_size(group))]
            dist.all_gather_object(gathered, known, group=group)
            known = {rank: value for of_rank in gathered for rank, value in of_rank.items()}
        return dict(sorted(known.items()))

    def average(self, tensor: Tensor) -> Tensor:
        """The mean over ranks that see different data and hold the model whole (DDP); itself anywhere else."""
        if self._data_parallel is not None:
            dist.all_reduce(tensor, group=self._data_parallel)
            tensor /= dist.get_world_size(self._data_parallel)
        return tensor

    def agree(
        self,
        prepare: Callable[[], Result],
        fingerprint: Callable[[Result], Mapping[str, str]],
        meets_by: str | None = None,
    ) -> Result:
        """Runs ``prepare`` and compares its fingerprint with every rank's; one rank's error is every rank's.

        Args:
            prepare: Makes the result.
            fingerprint: What must be alike on all ranks.
            meets_by: What of the fingerprint tells models apart, where it is not known yet that all ranks that share this one
                come; None where it is.

        Raises:
            ValueError, TypeError: What ``prepare`` raised, or that another rank failed or prepared something else.
        """
        try:
            result = prepare()
        except (ValueError, TypeError) as error:
            if meets_by is not None:
                self._meet("", str(error))
            if self.is_collective:
                self.gather((str(error), {}))
            raise
        mine = dict(fingerprint(result))
        if meets_by is not None:
            self._meet(mine[meets_by], None)
        if not self.is_collective:
            return result
        everyone = self.gather((None, mine))
        for rank, (problem, _) in everyone.items():
            if problem is not None:
                raise ValueError(f"rank {rank} refused: {problem}")
        check_same({rank: theirs for rank, (_, theirs) in everyone.items()})
        return result

    def _meet(self, layers: str, problem: str | None) -> None:
        if self._peers:
            self._meeting = Meeting(self._peers, layers, problem)
            self._meeting.hold()

    def look(self) -> None:
        """Before a step of a model that is this rank's own: whether others turned out to share it.

        Raises:
            ValueError: If they did.
        """
        if self._meeting is not None and not self.is_collective:
            self._meeting.look()


def check_same(
    fingerprints: Mapping[int, Mapping[str, str]],
    advice: str = "make the engine with the same model and arguments on every rank",
) -> None:
    """Raises a ValueError that names the first thing in which a rank differs from the first rank, and ends in advice."""
    first, *others = fingerprints
    for name, expected in fingerprints[first].items():
        for rank in others:
            got = fingerprints[rank].get(name)
            if got != expected:
                raise ValueError(
                    f"ranks disagree about {name}: rank {first} has {expected}, rank {rank} has {got}; {advice}"
                )


def check_same_topology(digests: Mapping[int, Sequence[LayerDigest]]) -> None:
    """Raises a ValueError that names the first layer whose topology is not alike on ranks that hold the same part."""
    seen: dict[tuple[str, object], tuple[int, bytes]] = {}
    for rank, layers in digests.items():
        for layer in layers:
            holder, digest = seen.setdefault((layer.name, layer.place), (rank, layer.digest))
            if digest != layer.digest:
                raise ValueError(
                    f"layer '{layer.name}' is out of sync: rank {rank} holds another topology than rank {holder}; load one "
                    "checkpoint on every rank, and train on reduced gradients with one seed"
                )


def describe(value: object) -> str:
    """A value's text without the addresses of objects, which differ between processes; of a tensor its shape only."""
    return str(tuple(value.shape)) if isinstance(value, Tensor) else _ADDRESS.sub("", repr(value))


def describe_options(options: Mapping[str, Any]) -> str:
    """A method's options in one line."""
    return ", ".join(f"{name}={describe(value)}" for name, value in options.items())
