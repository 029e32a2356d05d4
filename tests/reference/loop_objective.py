"""LOOP's advantage and objective written slowly, in the notation of arXiv 2502.01600. float64, plain loops.

For a context c, K rollouts x_1 .. x_K come from the behaviour policy pi_psi and earn R(s_0, c, x_k). The advantage is
leave-one-out,

    A(c, x_k) = R_k - 1 / (K - 1) * sum over j != k of R_j.

A rollout has turns, a turn has tokens; only tokens that the policy sampled count. With the ratio of a unit u (one
token, one turn, or the whole rollout)

    r_u = product over the tokens t of u of pi_theta(x_t | c, x_<t) / pi_psi(x_t | c, x_<t),

the objective is an average over units of

    min(r_u A, clip(r_u, 1 - eps, 1 + eps) A),

averaged within each rollout first (as in the paper), or over all units at once. In the paper's code the lower bound is
1 / (1 + eps), and the sum over rollouts is divided by a constant. pi_psi is what the engine reported when it sampled.
"""

from __future__ import annotations

import math

import numpy as np


def leave_one_out(rewards):
    """A_k of each member. `rewards` are the survivors'."""
    advantages = []
    for k, own in enumerate(rewards):
        others = [reward for j, reward in enumerate(rewards) if j != k]
        advantages.append(own - math.fsum(others) / len(others))
    return np.array(advantages, np.float64)


def units_of(rollout, level):
    """Lists of (log pi, log mu) by unit. A rollout is a list of turns, a turn a list of such pairs."""
    if level == "token":
        return [[pair] for turn in rollout for pair in turn]
    if level == "turn":
        return [list(turn) for turn in rollout]
    return [[pair for turn in rollout for pair in turn]]


def term(unit, advantage, low, high):
    """min(r A, clip(r, low, high) A)."""
    ratio = math.exp(math.fsum(log_pi - log_mu for log_pi, log_mu in unit))
    clipped = min(max(ratio, low), high)
    return min(ratio * advantage, clipped * advantage)


def loss(rollouts, advantages, *, level, low, high, aggregation, divisor=None):
    """Minus the objective. `aggregation`: trajectory_mean, unit_mean, or constant with its divisor."""
    within, everywhere = [], []
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        terms = [term(unit, advantage, low, high) for unit in units_of(rollout, level)]
        within.append(math.fsum(terms) / len(terms))
        everywhere += terms
    if aggregation == "unit_mean":
        return -math.fsum(everywhere) / len(everywhere)
    if aggregation == "trajectory_mean":
        return -math.fsum(within) / len(within)
    return -math.fsum(within) / divisor


def gradient(rollouts, advantages, **how):
    """d loss / d log pi by central differences, in the order of the tokens."""
    step = 1e-6
    result = []
    for i, rollout in enumerate(rollouts):
        for j, turn in enumerate(rollout):
            for k, (log_pi, log_mu) in enumerate(turn):
                values = []
                for moved in (log_pi + step, log_pi - step):
                    changed = [[list(t) for t in r] for r in rollouts]
                    changed[i][j][k] = (moved, log_mu)
                    values.append(loss(changed, advantages, **how))
                result.append((values[0] - values[1]) / (2 * step))
    return np.array(result, np.float64)


def ratio_figures(log_ratio):
    """Mean and largest ratio, k1, k3 and the effective sample size as a share, of tokens with these log-ratios."""
    ratios = [math.exp(value) for value in log_ratio]
    count = len(ratios)
    return {
        "ratio_mean": math.fsum(ratios) / count,
        "ratio_max": max(ratios),
        "kl_k1": math.fsum(-value for value in log_ratio) / count,
        "kl_k3": math.fsum(r - 1 - value for r, value in zip(ratios, log_ratio, strict=True)) / count,
        "ess": math.fsum(ratios) ** 2 / (count * math.fsum(r * r for r in ratios)),
    }
