"""What actors did and said of late, by name, for who asks how the run does (stage 4). Pure: time comes in."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

from common.status_messages import LoggedError

WINDOW = 60.0  # seconds that rates look back
KEPT = 10  # errors of one actor


class Reports:
    """Of all actors since the gateway's start."""

    def __init__(self) -> None:
        self._arrivals: defaultdict[str, deque[float]] = defaultdict(deque)
        self._errors: defaultdict[str, deque[LoggedError]] = defaultdict(lambda: deque(maxlen=KEPT))

    def arrived(self, actor: str, now: float) -> None:
        """A trajectory of an actor was taken."""
        self._arrivals[actor].append(now)
        self._forget(actor, now)

    def told(self, actor: str, errors: Iterable[LoggedError]) -> None:
        """An actor logged warnings or errors; a heartbeat that came twice tells them once."""
        kept = self._errors[actor] if errors else deque[LoggedError]()
        for error in errors:
            named = error.model_copy(update={"source": actor})  # whatever it calls itself
            if named not in kept:
                kept.append(named)

    def episodes_per_minute(self, actor: str, now: float) -> int:
        """Trajectories taken from an actor in the last minute, count."""
        self._forget(actor, now)
        return len(self._arrivals[actor]) if actor in self._arrivals else 0

    @property
    def errors(self) -> Iterator[LoggedError]:
        return (error for kept in self._errors.values() for error in kept)

    def _forget(self, actor: str, now: float) -> None:
        arrivals = self._arrivals.get(actor)
        while arrivals and now - arrivals[0] > WINDOW:
            arrivals.popleft()
        if arrivals is not None and not arrivals:
            del self._arrivals[actor]
