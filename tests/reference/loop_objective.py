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

Below that, what the paper compares with, and what 2025's off-policy systems add: REINFORCE, GRPO's penalty, importance
weights, masks, the proximal policy. A token is a pair (log pi, log mu), or a triple with log pi_prox.
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


def normalised(rewards):
    """GRPO's A_k = (R_k - mean R) / (std R + 1e-6), with the sample's standard deviation."""
    mean = math.fsum(rewards) / len(rewards)
    deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in rewards) / (len(rewards) - 1))
    return np.array([(r - mean) / (deviation + 1e-6) for r in rewards], np.float64)


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
    terms = [
        [term(unit, advantage, low, high) for unit in units_of(rollout, level)]
        for rollout, advantage in zip(rollouts, advantages, strict=True)
    ]
    return -aggregate(terms, aggregation, divisor)


def aggregate(terms, aggregation, divisor=None):
    """Lists of terms by rollout -> one number."""
    within = [math.fsum(own) / len(own) for own in terms]
    everywhere = [one for own in terms for one in own]
    if aggregation == "unit_mean":
        return math.fsum(everywhere) / len(everywhere)
    if aggregation == "trajectory_mean":
        return math.fsum(within) / len(within)
    return math.fsum(within) / divisor


def reinforce(rollouts, advantages, *, level, aggregation, divisor=None):
    """Minus the aggregate of (sum over the unit of log pi) A."""
    terms = [
        [math.fsum(log_pi for log_pi, _ in unit) * advantage for unit in units_of(rollout, level)]
        for rollout, advantage in zip(rollouts, advantages, strict=True)
    ]
    return -aggregate(terms, aggregation, divisor)


def penalty(log_pi, log_reference, *, aggregation, divisor=None):
    """GRPO's KL penalty: k3 by token, aggregated by token. Lists of log-probs by rollout."""
    terms = [
        [math.exp(ref - pi) - (ref - pi) - 1 for pi, ref in zip(own, of_base, strict=True)]
        for own, of_base in zip(log_pi, log_reference, strict=True)
    ]
    return aggregate(terms, aggregation, divisor)


def importance(rollout):
    """w_t = pi_prox / pi_psi of a rollout's tokens, which are triples (log pi, log mu, log prox)."""
    return [math.exp(log_prox - log_mu) for turn in rollout for _, log_mu, log_prox in turn]


def truncated(weights, unit, cap):
    """Truncated importance weights of a rollout's tokens: each cut, or the product of all, cut."""
    if unit == "token":
        return [min(w, cap) for w in weights]
    return [min(math.prod(weights), cap)] * len(weights)


def kept(weights, kind, *, low=None, high=None, above=None):
    """Whether each of a rollout's tokens is kept by a mask."""
    if kind == "band":
        return [low <= w <= high for w in weights]
    if kind == "geometric":
        return [low <= math.prod(weights) ** (1 / len(weights)) <= high] * len(weights)
    return [max(abs(math.log(w)) for w in weights) <= above] * len(weights)


def interpolated(log_pi, log_mu, lag):
    """A-3PO's log pi_prox: the behaviour has the share 1 / lag, without lag none."""
    share = 0.0 if lag == 0 else 1.0 / lag
    return share * log_mu + (1 - share) * log_pi


def decoupled(rollouts, advantages, *, low, high, aggregation, divisor=None, weigh=None, mask=None):
    """Minus the aggregate by token of w min(r A, clip(r) A), r = pi / pi_prox, 0 where a mask drops it.

    `weigh` and `mask` take a rollout's importance weights and give a factor, or True to keep, by token.
    """
    terms = []
    for rollout, advantage in zip(rollouts, advantages, strict=True):
        tokens = [token for turn in rollout for token in turn]
        weights = importance(rollout)
        factors = weigh(weights) if weigh else [1.0] * len(tokens)
        keep = mask(weights) if mask else [True] * len(tokens)
        terms.append(
            [
                factor * term([(log_pi, log_prox)], advantage, low, high) if wanted else 0.0
                for (log_pi, _, log_prox), factor, wanted in zip(tokens, factors, keep, strict=True)
            ]
        )
    return -aggregate(terms, aggregation, divisor)


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
