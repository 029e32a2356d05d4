"""Who is connected: actors by their key's name, told apart by process instance. Pure: time comes in.

One name, one live actor. A restarted one gets in at once when the old connection is gone or it left politely, else
after the old one was silent for `silence` seconds; until then it is refused for the time being, with the reason.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from common.messages import Heartbeat, Hello, Refused


@dataclass(slots=True, eq=False)
class Peer:
    """An actor as the gateway knows it."""

    name: str
    instance: str
    routing: bytes  # of its present connection
    slots: int
    heard_at: float  # seconds, the gateway's monotonic clock
    heartbeat: Heartbeat | None = None
    unclaimed: frozenset[str] = frozenset()  # leases of this name that its first heartbeat must name, or they are free
    left: bool = False
    silent: bool = field(default=False)  # noticed and logged; until `Reception` logs that it is heard again
    quiet: float = 0.0  # seconds between its two newest messages
    fetching: int = -1  # the version of the last file that it asked for
    fetched_at: float = -math.inf


class Peers:
    """All actors since the gateway's start."""

    def __init__(self, silence: float) -> None:
        self._silence = silence
        self._by_name: OrderedDict[str, Peer] = OrderedDict()  # who was heard last stands last

    def hello(
        self, name: str, hello: Hello, routing: bytes, now: float, is_connected: Callable[[bytes], bool]
    ) -> Peer | Refused:
        """Let an actor in, or say why it waits outside."""
        old = self._by_name.get(name)
        anew = old is None or old.instance != hello.instance
        if old is not None and anew and not old.left:
            quiet = now - old.heard_at
            if quiet <= self._silence and is_connected(old.routing):
                reason = f"another actor named {name} is alive (heard {quiet:.1f} s ago): stop it, or use another name"
                return Refused(reason=reason, temporary=True)
        peer = self._by_name[name] = Peer(name, hello.instance, routing, hello.slots, now)
        if old is not None and not anew:
            peer.silent, peer.quiet = old.silent, now - old.heard_at
        self._by_name.move_to_end(name)
        return peer

    def hear(self, name: str, routing: bytes, now: float) -> Peer | None:
        """The actor behind a message; None when this connection was not welcomed (it is to say `Hello`)."""
        peer = self._by_name.get(name)
        if peer is None or peer.routing != routing or peer.left:
            return None
        peer.quiet, peer.heard_at = now - peer.heard_at, now
        self._by_name.move_to_end(name)
        return peer

    def fetches(self, name: str, version: int, now: float) -> None:
        """Somebody asked for a piece of a version's files; without a name (an insecure link) it may be anybody."""
        for peer in [self._by_name[name]] if name in self._by_name else self.present if not name else ():
            peer.fetching, peer.fetched_at = version, now

    def name_on(self, routing: bytes) -> str:
        """Who said `Hello` on a connection; empty for none."""
        return next((peer.name for peer in self._by_name.values() if peer.routing == routing), "")

    def versions_in_use(self, now: float) -> set[int]:
        """Versions that live actors sample with or read, as heartbeats say, or asked for within the silence limit."""
        beats = [peer.heartbeat for peer in self.live(now) if peer.heartbeat is not None]
        sampled = {version for beat in beats for version in (beat.policy_version, *beat.reads)}
        fetched = {peer.fetching for peer in self.present if now - peer.fetched_at <= self._silence}
        return {version for version in sampled | fetched if version >= 0}

    def extend_all(self, now: float) -> None:
        """Nobody is silent before the gateway has listened again."""
        for peer in self.present:
            peer.heard_at = now

    def newly_silent(self, now: float) -> list[Peer]:
        """Actors that fell silent since the last call."""
        quiet = itertools.takewhile(lambda peer: now - peer.heard_at > self._silence, self._by_name.values())
        fallen = [peer for peer in quiet if not peer.silent and not peer.left]
        for peer in fallen:
            peer.silent = True
        return fallen

    @property
    def names(self) -> AbstractSet[str]:
        """Of all actors since the start, those that have left too."""
        return self._by_name.keys()

    def named(self, name: str) -> Peer | None:
        """An actor, one that has left too."""
        return self._by_name.get(name)

    @property
    def all(self) -> Iterator[Peer]:
        """Every actor since the start, who was heard last stands last."""
        return iter(self._by_name.values())

    @property
    def present(self) -> Iterator[Peer]:
        """Actors that have not left, silent ones too."""
        return (peer for peer in self._by_name.values() if not peer.left)

    def live(self, now: float) -> list[Peer]:
        """Actors heard within the silence limit, the last heard first."""
        return list(self._heard(now))

    def any_live(self, now: float) -> bool:
        """Whether some actor was heard within the silence limit; as cheap with a thousand as with one."""
        return next(self._heard(now), None) is not None

    def _heard(self, now: float) -> Iterator[Peer]:
        recent = itertools.takewhile(
            lambda peer: now - peer.heard_at <= self._silence, reversed(self._by_name.values())
        )
        return (peer for peer in recent if not peer.left)
