"""What the ratios of a step say, in total and by policy-version lag. Pure numpy.

With r = pi / mu by token, over tokens sampled from mu (the names are those in metrics.jsonl):
`ratio_mean`, `ratio_max` · `clip_share`: tokens without gradient because of the clip · `kl_k1` = mean(-log r) and
`kl_k3` = mean(r - 1 - log r), estimates of KL(mu || pi) in nats (Schulman, Approximating KL) · `ess` = (sum r)^2 /
(n sum r^2), the effective sample size as a share of the tokens · `entropy`: of pi at the sampled tokens, nats ·
`tokens`: n.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass
class TokenRecord:
    """Per-token quantities of a step's forward passes, gathered micro-batch by micro-batch."""

    log_ratio: list[npt.NDArray[np.float32]] = field(default_factory=list)
    clipped: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    lag: list[npt.NDArray[np.int64]] = field(default_factory=list)
    entropy: list[npt.NDArray[np.float32]] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Figures over all tokens, and under `by_lag` for each lag that occurs; empty when nothing was recorded."""
        if not self.log_ratio:
            return {}
        log_ratio = np.concatenate(self.log_ratio).astype(np.float64)
        clipped, lag = np.concatenate(self.clipped), np.concatenate(self.lag)
        entropy = np.concatenate(self.entropy) if self.entropy else None
        split = {}
        for value in np.unique(lag):
            here = lag == value
            split[str(value)] = figures(log_ratio[here], clipped[here], None if entropy is None else entropy[here])
        return {**figures(log_ratio, clipped, entropy), "by_lag": split}


def figures(
    log_ratio: npt.NDArray[np.float64], clipped: npt.NDArray[np.bool_], entropy: npt.NDArray[np.float32] | None
) -> dict[str, float | int]:
    """The figures of some tokens, all arrays [n], n > 0."""
    ratio = np.exp(np.minimum(log_ratio, 100.0))  # beyond float32's range, where the step was refused anyway
    made: dict[str, float | int] = {
        "tokens": len(ratio),
        "ratio_mean": float(ratio.mean()),
        "ratio_max": float(ratio.max()),
        "clip_share": float(clipped.mean()),
        "kl_k1": float(-log_ratio.mean()),
        "kl_k3": float((ratio - 1.0 - log_ratio).mean()),
        "ess": effective_share(log_ratio),
    }
    if entropy is not None:
        made["entropy"] = float(entropy.mean(dtype=np.float64))
    return made


def effective_share(log_ratio: npt.NDArray[np.float64]) -> float:
    """(sum r)^2 / (n sum r^2), 1 / n to 1; computed on ratios scaled by their largest, so that none overflows."""
    scaled = np.exp(log_ratio - log_ratio.max())
    return float(scaled.sum() ** 2 / (len(scaled) * (scaled**2).sum()))
