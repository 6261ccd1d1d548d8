"""Where the engines of a process group find each other before their first collective, which would wait for who never comes.

The meeting place is the group's store. Ranks that share a model wait there for one another, at most as long as the process
group would. The lowest of them looks out for others that make an engine of the same layers in another way, the others look
at the lowest. A rank whose model is its own says so and goes on; while it trains, it looks now and then who waits for it.

What processes of an earlier attempt left in the store may let a rank pass too early; then the collective waits as it would.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

_logger = logging.getLogger(__name__)

_GRACE = 2.0
"""Seconds in which a rank that announced another engine may still come: it may have made one more than others did."""

_PATIENCE = 3.0
"""Seconds, at most once a process, that a rank whose model is its own waits for the others' first word."""

_LEEWAY = 60.0
"""Seconds that a rank may train a model of its own while others wait for it with the one that they share."""

_LOOKS_EVERY = 1.0
"""Seconds between two looks of a rank that trains a model of its own."""


@final
@dataclass(frozen=True, slots=True)
class Announcement:
    """What a rank says of an engine that it makes.

    Attributes:
        rank: Who.
        peers: The ranks that share the model, itself among them.
        layers: Tells the layers of one model from another's, the same however they are cut.
        problem: Why it refuses to make the engine; None if it does not.
    """

    rank: int
    peers: tuple[int, ...]
    layers: str
    problem: str | None

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_text(cls, text: str | bytes) -> Announcement:
        content = json.loads(text)
        return cls(content["rank"], tuple(content["peers"]), content["layers"], content["problem"])

    def is_of_same_layers(self, other: Announcement) -> bool:
        """Whether two engines are of one model, however it is cut."""
        return self.layers == other.layers

    def objection(self, peer: Announcement) -> str | None:
        """Why the ranks that share this model cannot do with what one of them makes; None if they can."""
        if peer.peers == self.peers:
            return None  # it comes; what else differs is compared then
        if peer.problem is not None:
            return f"rank {peer.rank} refused: {peer.problem}"
        if peer.is_of_same_layers(self):
            return (
                f"ranks disagree about how the model is shared: rank {peer.rank} has {_shared(peer.peers)}, others "
                f"{_shared(self.peers)}; wrap or shard the model alike on every rank"
            )
        return None


class Meeting:
    """One rank's engine among those of the process group.

    Args:
        peers: The ranks that share the model; this rank alone: the model is its own.
        layers: The names and shapes of its layers.
        problem: Why the engine is refused here, if it is.
    """

    _num_announced = 0  # the place of an engine among those of its process
    _others_make_engines = True

    def __init__(self, peers: Sequence[int], layers: str, problem: str | None) -> None:
        digest = hashlib.blake2b(layers.encode(), digest_size=16).hexdigest()
        self._mine = Announcement(dist.get_rank(), tuple(sorted(peers)), digest, problem)
        self._store: Any = dist.PrefixStore("itop", _get_default_store())  # type: ignore[attr-defined]
        self._place = f"engine/{Meeting._num_announced}"
        self._next_look = 0.0
        self._has_warned = False
        Meeting._num_announced += 1

    def hold(self) -> None:
        """Announces the engine; where the model is shared, waits until all who share it have come.

        Raises:
            ValueError: On every rank that shares the model alike, if one of them makes something else or does not come; on
                a rank whose model is its own if others share it.
        """
        try:
            verdict = self._verdict()
        except dist.DistError:
            return  # the store may be gone, and some backends have none: the group's own timeout remains
        if verdict:
            raise ValueError(verdict)

    def look(self) -> None:
        """Before a step: whether others share the model that this rank has for its own, or gave up waiting for it.

        Asks the store once a second at most.

        Raises:
            ValueError: If they do.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        try:
            verdict = self._objection_of_others(trains=True)
        except dist.DistError:
            self._next_look = math.inf
            return
        self._next_look = now + _LOOKS_EVERY
        if verdict is not None:
            raise ValueError(verdict)

    def _verdict(self) -> str | None:
        own = f"{self._place}/rank/{self._mine.rank}"
        self._store.set(own, self._mine.to_text())
        if self._store.get(own).decode() != self._mine.to_text():
            return None  # a store that keeps nothing
        if len(self._mine.peers) > 1:
            return self._wait_for_peers()
        self._count()
        self._wait_for_first_words()
        return self._objection_of_others()

    # --- a model of one's own -------------------------------------------------------------------------------------------

    def _wait_for_first_words(self) -> None:
        if not Meeting._others_make_engines or self._mine.problem is not None:
            return
        for _ in _moments(_PATIENCE):
            if self._store.check([f"{self._place}/all"]) or self._store.check([self._call_to(self._mine.rank)]):
                return
        Meeting._others_make_engines = False
        ranks = range(dist.get_world_size())
        silent = [str(rank) for rank in ranks if not self._store.check([f"{self._place}/rank/{rank}"])]
        if silent:
            _logger.warning(
                "rank %d makes an engine of a model of its own, and rank %s made none within %.0f s; where they wait in "
                "DistributedDataParallel, fully_shard or parallelize_module, wrap the model here as well",
                self._mine.rank,
                ", ".join(silent),
                _PATIENCE,
            )

    def _objection_of_others(self, trains: bool = False) -> str | None:
        call = self._call_to(self._mine.rank)
        if self._mine.problem is not None or not self._store.check([call]):
            return None
        caller = Announcement.from_text(self._store.get(call))
        if caller.is_of_same_layers(self._mine):
            return caller.objection(self._mine)
        refusal = _refusal_of(self._place, self._mine.rank)
        if self._store.check([refusal]):
            return str(self._store.get(refusal).decode())
        if trains:
            self._store.set(_training_of(self._place, self._mine.rank), "")
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "rank %d waits for an engine of the model that %d ranks share, while rank %d trains one of its own with other layers",
                caller.rank,
                len(caller.peers),
                self._mine.rank,
            )
        return caller.objection(self._mine)

    # --- a model that is shared -----------------------------------------------------------------------------------------

    def _wait_for_peers(self) -> str:
        mine, store = self._mine, self._store
        room = f"room/{','.join(map(str, mine.peers))}"
        generation = int(store.get(f"{room}/generation")) if store.check([f"{room}/generation"]) else 0
        verdict_key, here = f"{room}/{generation}/verdict", f"{room}/{generation}/here"
        leads = mine.rank == mine.peers[0]
        watched = [peer for peer in (mine.peers if leads else mine.peers[:1]) if peer != mine.rank]
        for peer in watched:
            store.set(self._call_to(peer), mine.to_text())
        store.set(f"{here}/{mine.rank}", "")
        self._count()
        others = _Others(mine, store, self._place, watched)
        verdict: str | None = None
        for waited in _moments(store.timeout.total_seconds()):
            if store.check([verdict_key]):
                return str(store.get(verdict_key).decode())
            have_come = leads and store.check([f"{here}/{peer}" for peer in mine.peers])
            verdict = "" if have_come else others.objection(waited)
            if verdict is not None:
                break
        if verdict is None:
            missing = [str(peer) for peer in mine.peers if not store.check([f"{here}/{peer}"])]
            verdict = (
                f"no engine was made on rank {', '.join(missing)} within {store.timeout.total_seconds():.0f} s, where "
                f"{len(mine.peers)} ranks share the model; make it on every rank"
            )
        store.set(f"{room}/generation", str(generation + 1))
        store.set(verdict_key, verdict)
        return verdict

    def _call_to(self, rank: int) -> str:
        """Where a rank finds who waits for it."""
        return f"{self._place}/call/{rank}"

    def _count(self) -> None:
        if self._store.add(f"{self._place}/count", 1) == dist.get_world_size():
            self._store.set(f"{self._place}/all", "")


class _Others:
    """What peers announced in the place of the engine that waits for them."""

    def __init__(self, mine: Announcement, store: Any, place: str, watched: Sequence[int]) -> None:
        self._mine = mine
        self._store = store
        self._place = place
        self._silent = list(watched)
        self._objection: str | None = None
        self._elsewhere: dict[int, float] = {}
        self._training: dict[int, float] = {}
        self._named: set[int] = set()
        self._since = 0.0

    def objection(self, waited: float) -> str | None:
        """The first of them, when it is old enough to be meant."""
        if self._objection is not None:
            return self._objection if waited > self._since + _GRACE else None
        for peer in tuple(self._silent):
            if self._store.check([f"{self._place}/rank/{peer}"]):
                self._silent.remove(peer)
                announced = Announcement.from_text(self._store.get(f"{self._place}/rank/{peer}"))
                self._objection, self._since = self._mine.objection(announced), waited
                if self._objection is not None:
                    break
                if announced.peers != self._mine.peers:
                    self._elsewhere[peer] = waited
        for peer, since in tuple(self._elsewhere.items()):
            if waited > since + _GRACE and peer not in self._named:
                self._named.add(peer)
                _logger.warning(
                    "rank %d made an engine of another model; rank %d waits up to %.0f s for it to make one of the model that "
                    "%d ranks share",
                    peer,
                    self._mine.rank,
                    self._store.timeout.total_seconds(),
                    len(self._mine.peers),
                )
            if self._store.check([_training_of(self._place, peer)]) and waited > (
                self._training.setdefault(peer, waited) + _LEEWAY
            ):
                refusal = (
                    f"rank {peer} trains another model while rank {self._mine.rank} waits for it to make an engine of the one "
                    f"that {len(self._mine.peers)} ranks share; make the same engines in the same order on every rank"
                )
                self._store.set(_refusal_of(self._place, peer), refusal)
                return refusal
        return None


def _training_of(place: str, rank: int) -> str:
    """Set by a rank that trains a model of its own while it is waited for."""
    return f"{place}/training/{rank}"


def _refusal_of(place: str, rank: int) -> str:
    """Where a rank that trains a model of its own finds why others did not wait any longer."""
    return f"{place}/refusal/{rank}"


def _shared(peers: Sequence[int]) -> str:
    return "a model of its own" if len(peers) == 1 else f"one that {len(peers)} ranks share"


def _moments(limit: float) -> Iterator[float]:
    """Seconds waited so far, ever further apart, until a limit."""
    start, pause = time.monotonic(), 0.001
    while (waited := time.monotonic() - start) < limit:
        yield waited
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
