"""Stage 2, Episode: the tokens that a turn is conditioned on, and what gives way when there are too many. Pure.

    opening, turn, observation, turn, observation, ...     the limit     the same, the oldest observations as stubs

What the policy sampled is never touched, nor is the opening, nor the observation that is shown now. Replacing changes
what all later turns are conditioned on, and the engine's cache of the old beginning is lost: so as soon as one
observation must give way, as many do as make a configured share free, and stay replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class _Shown:
    """One turn's tokens and what was shown after it, and the stub that may take its place."""

    sampled: Sequence[int]
    observation: Sequence[int]
    stub: Sequence[int]

    @property
    def gain(self) -> int:
        """Tokens that replacing it would make free."""
        return max(0, len(self.observation) - len(self.stub))


class Context:
    """One context of an episode, which grows.

    Args:
        opening: the episode's first tokens.
        limit: tokens that it may have, count.
        freed_share: of `limit`, what is made free at once; None: nothing is ever replaced.
    """

    def __init__(self, opening: Sequence[int], limit: int, freed_share: float | None) -> None:
        self.ids = list(opening)
        self._opening = tuple(opening)
        self._limit = limit
        self._share = freed_share
        self._shown: list[_Shown] = []
        self._sampled: tuple[Sequence[int], Sequence[int]] = ((), ())

    @property
    def room(self) -> int:
        """Tokens that fit as it stands, count."""
        return self._limit - len(self.ids)

    @property
    def most_room(self) -> int:
        """Tokens that fit when all that may give way has given way, count."""
        return self.room if self._share is None else self.room + sum(shown.gain for shown in self._shown)

    def sampled(self, ids: Sequence[int], stub: Sequence[int]) -> None:
        """The policy's turn, and what may later stand in the place of the observation that follows it."""
        self.ids += ids
        self._sampled = ids, stub

    def show(self, observation: Sequence[int], turn_tokens: int) -> int | None:
        """The observation after the turn; it must fit into `most_room`.

        Where it leaves less room than `turn_tokens`, the oldest observations give way, no more of them than needed.
        Gives None where the context goes on as it is; else it is another one, and the place in it is given where what
        is new begins: this observation.
        """
        before = self._shown
        self._shown = [*before, _Shown(self._sampled[0], observation, self._sampled[1])]
        if self._share is None or self.room - len(observation) >= turn_tokens or not any(s.gain for s in before):
            self.ids += observation
            return None
        most = min(self._limit - turn_tokens, int(self._limit * (1 - self._share)))
        length = len(self.ids) + len(observation)
        for shown in before:
            if length <= most:
                break
            length -= shown.gain
            if shown.gain:
                shown.observation = shown.stub
        self.ids = [*self._opening, *(id_ for s in before for id_ in (*s.sampled, *s.observation)), *self._sampled[0]]
        begin = len(self.ids)
        self.ids += observation
        return begin
