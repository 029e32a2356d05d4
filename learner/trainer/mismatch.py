"""How far learner and engine are apart, split into what the policy has moved since and what they compute differently.

With log mu of a token as the engine recorded it under policy version v, pi_v the learner's own probability under that
version, and pi the learner's policy before the step,

    log pi - log mu = (log pi - log pi_v) [staleness] + (log pi_v - log mu) [mismatch].

Pure numpy; retained.py recomputes log pi_v. In a step's line of metrics.jsonl, under `recomputed`, of the sampled
tokens of a drawn share of the trajectories (learner.diagnostics.recomputed_share):
`trajectories`, `tokens`: counts behind the figures · `unavailable`: tokens left out because their version is no longer
there · `mismatch` and `staleness`, each with `mean` and `max` of its absolute value, `k1` = mean(-x) and
`k3` = mean(exp x - 1 - x) of the log-ratio x, nats; both k1 add up to the k1 of pi against mu · `by_lag`: the same by
policy-version lag · `seconds`: what it took.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_DRAW = 3  # apart from the other draws of (run.seed, step)
_LARGEST = 100.0  # log-ratios are cut there before exp, as in diagnostics.py


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSplit:
    """The three log-probs of n sampled tokens in nats, float32 [n], and where each token is from, int64 [n]."""

    current: npt.NDArray[np.float32]  # log pi
    retained: npt.NDArray[np.float32]  # log pi_v; nan where version v is not there
    behaviour: npt.NDArray[np.float32]  # log mu
    lag: npt.NDArray[np.int64]  # policy versions
    trajectory: npt.NDArray[np.int64]  # index among the drawn

    def summary(self) -> dict[str, Any]:
        """The figures above but for `seconds`; mismatch and staleness are absent where no token has its version."""
        split = {str(value): self._figures(self.lag == value) for value in np.unique(self.lag)}
        return {**self._figures(np.ones(len(self.lag), np.bool_)), "by_lag": split}

    def _figures(self, where: npt.NDArray[np.bool_]) -> dict[str, Any]:
        known = where & ~np.isnan(self.retained)
        made: dict[str, Any] = {
            "trajectories": len(np.unique(self.trajectory[known])),
            "tokens": int(known.sum()),
            "unavailable": int(where.sum() - known.sum()),
        }
        if made["tokens"]:
            current, retained, behaviour = (
                values[known].astype(np.float64) for values in (self.current, self.retained, self.behaviour)
            )
            made["mismatch"] = part_figures(retained - behaviour)
            made["staleness"] = part_figures(current - retained)
        return made


def part_figures(log_ratio: npt.NDArray[np.float64]) -> dict[str, float]:
    """The figures of one part, from its log-ratios [n], n > 0."""
    size = np.abs(log_ratio)
    return {
        "mean": float(size.mean()),
        "max": float(size.max()),
        "k1": float(-log_ratio.mean()),
        "k3": float((np.exp(np.minimum(log_ratio, _LARGEST)) - 1.0 - log_ratio).mean()),
    }


def drawn(count: int, share: float, seed: Sequence[int]) -> list[int]:
    """Indices of `share` of `count` trajectories, rounded up, ascending; they follow from `seed` alone."""
    size = min(count, math.ceil(share * count))
    rng = np.random.default_rng([*seed, _DRAW])
    return sorted(int(index) for index in rng.choice(count, size, replace=False))
