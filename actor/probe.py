"""Stage 12: the verdict on a probe, from what every engine worker says of it. Pure.

The learner publishes with each version its own log-probs of a fixed token sequence. An engine that differs samples from
other weights than the learner trains; one whose prefix cache gives other log-probs than computing does samples from
other keys and values.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.checkpoint import Probe

NOT_PROBED, NOT_A_NUMBER = -1.0, 1e9  # in place of a probe's difference


@dataclass(frozen=True)
class Score:
    """What one engine worker says of a probe of P tokens."""

    log_probs: Sequence[float]  # [P-1], nats
    stale_tokens: int = 0  # the probe's tokens that the prefix cache had for this version before it was ever scored
    cache_difference: float = 0.0  # nats, largest: the end of it with its beginning read from the cache, and computed


class ProbeDiffers(Exception):  # noqa: N818 - a verdict
    """The engine does not compute what the learner published; `difference` in nats."""

    def __init__(self, reason: str, difference: float = NOT_PROBED) -> None:
        super().__init__(reason)
        self.difference = difference


def judge(scores: Sequence[Score], probe: Probe, tolerance: float) -> float:
    """Largest difference of a probe log-prob from the learner's, nats, over all engine workers.

    Raises:
        ProbeDiffers: it is above the tolerance, or the prefix cache holds other weights' keys and values.
    """
    largest = 0.0
    for worker, score in enumerate(scores):
        where = f" on engine worker {worker}" if len(scores) > 1 else ""
        if score.stale_tokens:
            raise ProbeDiffers(
                f"the prefix cache held {score.stale_tokens} of the probe's tokens before they were computed{where}: "
                "keys and values of other weights"
            )
        pairs = zip(score.log_probs, probe.log_probs, strict=True)
        difference = _largest(abs(here - there) for here, there in pairs)
        if difference > tolerance:
            raise ProbeDiffers(f"probe differs by {difference:.3g} nats{where}", difference)
        from_cache = _largest([score.cache_difference])
        if from_cache > tolerance:
            raise ProbeDiffers(f"probe differs by {from_cache:.3g} nats when read from the cache{where}", from_cache)
        largest = max(largest, difference, from_cache)
    return largest


def _largest(differences: Iterable[float]) -> float:
    found = list(differences)
    return max(found, default=0.0) if all(map(math.isfinite, found)) else NOT_A_NUMBER
