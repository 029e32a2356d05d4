"""Random rollouts in the twins' form, for the tests that compare with them."""

import numpy as np


def random_rollouts(seed, *, spread=0.4):
    """1 to 4 rollouts of 1 to 3 turns of 1 to 5 tokens (log pi, log mu, log prox)."""
    rng = np.random.default_rng(seed)
    rollouts = []
    for _ in range(rng.integers(1, 5)):
        turns = []
        for _ in range(rng.integers(1, 4)):
            log_mu = -3 * rng.random(rng.integers(1, 6))
            log_prox = log_mu + spread * rng.standard_normal(len(log_mu))
            log_pi = log_prox + spread * rng.standard_normal(len(log_mu))
            turns.append(list(zip(log_pi.tolist(), log_mu.tolist(), log_prox.tolist(), strict=True)))
        rollouts.append(turns)
    return rollouts, (2 * rng.standard_normal(len(rollouts))).tolist()


def without_proximal(rollouts, advantages):
    """The same rollouts of pairs (log pi, log mu)."""
    return [[[(pi, mu) for pi, mu, _ in turn] for turn in rollout] for rollout in rollouts], advantages
