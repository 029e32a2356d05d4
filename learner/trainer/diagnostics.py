"""What the ratios of a step say, in total and by policy-version lag. Pure numpy.

With r = pi / mu by token, over tokens sampled from mu (the names are those in metrics.jsonl, under `ratios`):
`ratio_mean`, `ratio_max` · `clip_share`: tokens without gradient because of the clip · `kl_k1` = mean(-log r) and
`kl_k3` = mean(r - 1 - log r), estimates of KL(mu || pi) in nats (Schulman, Approximating KL) · `ess` = (sum r)^2 /
(n sum r^2), the effective sample size as a share of the tokens · `entropy`: of pi at the sampled tokens, nats ·
`tokens`: n. With an importance weight w (before its cap) `weight_mean`, `weight_max`; with a mask `rejected_share`, of
the tokens; with a KL penalty `base_kl`, the mean k3 estimate of KL(pi || base) in nats.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Column = npt.NDArray[Any]


@dataclass
class TokenRecord:
    """Per-token quantities of a step's forward passes, gathered micro-batch by micro-batch: arrays [S] by name."""

    columns: dict[str, list[Column]] = field(default_factory=dict)

    def add(self, **columns: torch.Tensor | None) -> None:
        """One micro-batch's; what is None was not asked for, in any of them."""
        for name, values in columns.items():
            if values is not None:
                self.columns.setdefault(name, []).append(values.cpu().numpy())

    def column(self, name: str) -> Column:
        """All of one quantity, in the order of the passes."""
        return np.concatenate(self.columns[name])

    def summary(self) -> dict[str, Any]:
        """Figures over all tokens, and under `by_lag` for each lag that occurs; empty when nothing was recorded."""
        if not self.columns:
            return {}
        columns = {name: self.column(name) for name in self.columns}
        lag = columns.pop("lag")
        split = {}
        for value in np.unique(lag):
            here = lag == value
            split[str(value)] = figures({name: values[here] for name, values in columns.items()})
        return {**figures(columns), "by_lag": split}


def figures(columns: Mapping[str, Column]) -> dict[str, float | int]:
    """The figures of some tokens, all arrays [n], n > 0: `log_ratio` and `clipped` always, the rest where it is."""
    log_ratio = columns["log_ratio"].astype(np.float64)
    ratio = _ratio(log_ratio)
    made: dict[str, float | int] = {
        "tokens": len(ratio),
        "ratio_mean": float(ratio.mean()),
        "ratio_max": float(ratio.max()),
        "clip_share": float(columns["clipped"].mean()),
        "kl_k1": float(-log_ratio.mean()),
        "kl_k3": float((ratio - 1.0 - log_ratio).mean()),
        "ess": effective_share(log_ratio),
    }
    if "log_weight" in columns:
        weight = _ratio(columns["log_weight"].astype(np.float64))
        made |= {"weight_mean": float(weight.mean()), "weight_max": float(weight.max())}
    for name, column in (("entropy", "entropy"), ("rejected_share", "rejected"), ("base_kl", "base_kl")):
        if column in columns:
            made[name] = float(columns[column].mean(dtype=np.float64))
    return made


def effective_share(log_ratio: npt.NDArray[np.float64]) -> float:
    """(sum r)^2 / (n sum r^2), 1 / n to 1; computed on ratios scaled by their largest, so that none overflows."""
    scaled = np.exp(log_ratio - log_ratio.max())
    return float(scaled.sum() ** 2 / (len(scaled) * (scaled**2).sum()))


def _ratio(log_ratio: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    # beyond float32's range the step was refused anyway
    ratio: npt.NDArray[np.float64] = np.exp(np.minimum(log_ratio, 100.0))
    return ratio
