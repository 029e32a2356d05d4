"""What the gateway knows of its trainer (stages 5 to 11): when it was heard, what it is at, and for how long. Pure.

Its own beats say so (trainer_beats.py); what it asks says the same for a trainer that sends none.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from common.messages import Message
from common.status_messages import MOST_ERRORS, LoggedError, TrainerState, TrainerStatus
from learner.gateway.trainer_port import NextGroups, Published, TrainerBeat, TrainerHello, TrainingFinished

WAIT, TRAIN, PUBLISH, START = "wait", "forward_backward", "publish", "start"  # as the seconds of a step are called
WITHOUT_BEATS = 60.0  # seconds that a trainer without beats may be silent


class TrainerWatch:
    """Of one trainer.

    Args:
        interval: of its beats, seconds.
        silence: seconds after which it counts as silent.
        clock: seconds, monotonic.
    """

    def __init__(
        self, interval: float = 2.0, silence: float = 6.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval, self._silence, self._clock = interval, silence, clock
        self._heard_at: float | None = None
        self._beats = self._finished = self._parked = False
        self._doing, self._step, self._since = "", 0, clock()
        self._took: dict[str, float] = {}  # seconds, by what it was at
        self.errors: deque[LoggedError] = deque(maxlen=MOST_ERRORS)

    def heard(self, message: Message) -> None:
        """It said something."""
        now = self._heard_at = self._clock()
        match message:
            case TrainerBeat():
                self._beats = True
                self.errors.extend(error.model_copy(update={"source": "trainer"}) for error in message.errors)
                self._at(message.doing, message.step, now - message.seconds)
            case TrainerHello():
                self._finished = False
                self._at(START, 0, now)
            case NextGroups():
                self._at(WAIT, message.step, now)
            case Published():
                self._at(PUBLISH, message.step, now)
            case TrainingFinished():
                self._finished = True

    def parked(self, *, waits: bool) -> None:
        """Whether its question for groups waits here for an answer: what it says meanwhile is not read yet."""
        self._parked = waits
        if not waits:
            self._heard_at = self._clock()

    def handed(self, step: int) -> None:
        """It has the groups of a step."""
        self._at(TRAIN, step, self._clock())

    def extend(self) -> None:
        """The gateway itself stood still: nobody is silent before it has listened again."""
        if self._heard_at is not None:
            self._heard_at = self._clock()

    def status(self) -> TrainerStatus:
        """How it is now."""
        now = self._clock()
        quiet = -1.0 if self._heard_at is None else now - self._heard_at
        return TrainerStatus(
            state=self._state(quiet),
            heard_seconds=quiet,
            doing=self._doing,
            step=self._step,
            doing_seconds=max(0.0, now - self._since),
            took_seconds=self._took.get(self._doing, -1.0),
        )

    def _state(self, quiet: float) -> TrainerState:
        if quiet < 0:
            return "unheard"
        if self._finished:
            return "finished"
        least = 0.0 if self._beats else WITHOUT_BEATS
        if not self._parked and quiet > max(least, self._silence):
            return "silent"
        if not self._parked and quiet > max(least, 2 * self._interval):
            return "late"
        return "waiting" if self._doing == WAIT else "working"

    def _at(self, doing: str, step: int, since: float) -> None:
        if (doing, step) == (self._doing, self._step):
            self._since = min(self._since, since)
            return
        if self._doing:
            self._took[self._doing] = max(0.0, since - self._since)
        self._doing, self._step, self._since = doing, step, since
