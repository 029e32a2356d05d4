"""The split of engine mismatch from staleness written slowly: float64, one token after the other.

A token x of lag l was sampled by an engine that reported log mu(x) under policy version v. The learner's own policy of
that version is pi_v, its policy now pi_theta, and

    log pi_theta(x) - log mu(x) = (log pi_theta(x) - log pi_v(x)) + (log pi_v(x) - log mu(x))
                                   staleness                         mismatch

k1 and k3 are Schulman's estimators of a KL, of the log-ratio d of one part: mean of -d, and of e^d - 1 - d.
"""

from __future__ import annotations

import math


def part(differences):
    """Figures of one part's log-ratios d."""
    count = len(differences)
    return {
        "mean": math.fsum(abs(d) for d in differences) / count,
        "max": max(abs(d) for d in differences),
        "k1": -math.fsum(differences) / count,
        "k3": math.fsum(math.exp(d) - 1 - d for d in differences) / count,
    }


def figures(tokens):
    """`tokens`: (log pi, log pi_v or None, log mu, lag, trajectory) each."""
    known = [token for token in tokens if token[1] is not None]
    made = {
        "trajectories": len({token[4] for token in known}),
        "tokens": len(known),
        "unavailable": len(tokens) - len(known),
    }
    if known:
        made["mismatch"] = part([log_pi_v - log_mu for _, log_pi_v, log_mu, _, _ in known])
        made["staleness"] = part([log_pi - log_pi_v for log_pi, log_pi_v, _, _, _ in known])
    return made


def split(tokens):
    """All figures, and those of each lag."""
    lags = sorted({token[3] for token in tokens})
    return {**figures(tokens), "by_lag": {str(lag): figures([t for t in tokens if t[3] == lag]) for lag in lags}}
