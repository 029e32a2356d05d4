"""How many bytes of unacknowledged trajectories each actor may have under way (stage 4). Pure: figures come in.

The gateway cuts who makes it hold more than a bound; the credit is a third of that, since what was under way before a
cut comes once more, and other messages come beside it. What may be under way in all is shared evenly among the live
actors. A journal that takes long to commit gets less to do, so that what is under way is still acknowledged before its
sender thinks it lost; one that takes nothing gets nothing. An actor may always have one message under way alone, so 0
means one at a time.
"""

from __future__ import annotations

PART = 3
PROMPT_SECONDS = 0.5  # a commit that takes longer means that the journal is behind


class Credit:
    """The share of each actor.

    Args:
        total_bytes: that all actors together may make the gateway hold.
        peer_bytes: that one may.
    """

    def __init__(self, total_bytes: int = 1 << 30, peer_bytes: int = 192 << 20) -> None:
        self._total, self._peer = total_bytes // PART, peer_bytes // PART
        self.live = 1  # actors that share
        self.has_room = True  # whether the journal's disk takes more
        self.commit_seconds = 0.0  # that the last commit took

    @property
    def is_behind(self) -> bool:
        return self.commit_seconds > PROMPT_SECONDS

    @property
    def bytes(self) -> int:
        """Of each actor, now."""
        if not self.has_room:
            return 0
        share = min(self._peer, self._total // max(1, self.live))
        return int(share * PROMPT_SECONDS / self.commit_seconds) if self.is_behind else share
