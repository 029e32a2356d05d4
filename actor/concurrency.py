"""How many episodes sample at a time: more by one, or fewer by a share, after the pressure on the KV cache. Pure.

    engine's statistics ─► Load ─► Concurrency.observe ─► limit ─► Slots

A cache that is too full makes the engine preempt requests: it throws their keys and values away and computes them
again. One that is half empty leaves throughput unused. Neither can be told beforehand, since nobody knows how long
episodes get; so the limit is probed, as TCP probes a path (Chiu and Jain 1989; Jacobson 1988, section 3).
"""

from __future__ import annotations

from dataclasses import dataclass

# Of the limit, what a decrease keeps. TCP halves, as its queue drains within one round trip; here what is decreased
# drains over whole episodes, and each slot too few costs throughput all that time.
KEPT = 0.75


@dataclass(frozen=True)
class Load:
    """What one step of the engine tells of itself."""

    usage: float  # share of the KV cache that requests hold, 0 to 1
    waiting: int = 0  # requests that wait for room, count
    preempted: int = 0  # requests that lost their keys and values to others in this step, count
    finished: int = 0  # requests that ended in this step, count
    cached: int = 0  # tokens of prompts that the prefix cache had, count
    computed: int = 0  # and those that had to be computed
    running: int = 0  # requests in the step, count


class Concurrency:
    """The limit on episodes that sample at a time, `least` to `most`. Begins with `most`; equal ones fix it.

    Decreases on a preemption, and when more than `full` of the cache is held: once for each time that the number of
    episodes has come down to the limit, since until then the decrease before has not taken effect. Increases by one
    after as many turns without pressure as there are episodes, while the limit is what holds others up.
    """

    def __init__(self, least: int, most: int, full: float) -> None:
        assert 1 <= least <= most
        self.least, self.most, self.full = least, most, full
        self.limit = most
        self._calm = 0  # requests that ended since the last sign of pressure

    def observe(self, load: Load, running: int) -> int:
        """The limit after a step of the engine, while `running` episodes sample."""
        if load.preempted or load.usage > self.full:
            self._calm = 0
            if running <= self.limit:
                self.limit = max(self.least, min(self.limit - 1, int(self.limit * KEPT)))
        elif load.waiting:
            # neither: they wait for this step's tokens or for an adapter, which more episodes would not help
            self._calm = 0
        else:
            self._calm += load.finished
            if self._calm >= self.limit and running >= self.limit:
                self._calm = 0
                self.limit = min(self.most, self.limit + 1)
        return self.limit
