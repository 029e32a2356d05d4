"""Stages 7 to 9 of one step: scored trajectories -> moved parameters and what is to be said of them. No IO.

Several epochs and minibatches are several optimizer steps; all of them correct against the same recorded log-probs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from learner.config import LearnerConfig
from learner.trainer.advantage import Scored
from learner.trainer.batch import Batch, batches, dealt, make_micro_batch, used_tokens
from learner.trainer.correction import correct
from learner.trainer.diagnostics import TokenRecord
from learner.trainer.loss import k3, policy_loss
from learner.trainer.model import Policy, evaluating
from learner.trainer.optimizer import Optimizer, learning_rate


@dataclass
class Update:
    """What one step did."""

    optimizer_steps: int = 0  # applied
    refused: bool = False  # a loss or gradient was not finite; nothing of that minibatch reached the parameters
    refused_loss: float = 0.0
    refused_norm: float = 0.0
    stopped_by_kl: bool = False
    loss: float = 0.0  # of the first optimizer step
    gradient_norm: float = 0.0  # of the first optimizer step, before the clip
    learning_rate: float = 0.0
    forward_tokens: int = 0  # through the model, over all epochs
    record: TokenRecord = field(default_factory=TokenRecord)
    recomputed: dict[str, Any] = field(default_factory=dict)  # figures of mismatch.py


def update(
    policy: Policy,
    optimizer: Optimizer,
    scored: Sequence[Scored],
    config: LearnerConfig,
    *,
    step: int,
    policy_version: int,
    seed: int,
) -> Update:
    """Train on `scored` (at least one); `step` counts from 1, `policy_version` is the learner's before it."""
    # A step's random numbers follow from (seed, step): a run that resumes has no generator's state to restore.
    ranks = policy.ranks
    seed_everything(seed, step, ranks.rank)
    rate = learning_rate(step, config.rollout.steps, config.optimizer)
    made = Update(learning_rate=rate)
    if config.correction.proximal == "recomputed":
        scored = with_proximal(policy, scored, config)
    for number, batch in enumerate(batches(scored, config.batch, (seed, step), ranks)):
        loss, trajectory_kl = _accumulate(policy, batch, config, policy_version, made)
        stepped = optimizer.step(loss, rate)
        if number == 0:
            made.loss, made.gradient_norm = loss, stepped.gradient_norm
        if not stepped.applied:
            made.refused, made.refused_loss, made.refused_norm = True, loss, stepped.gradient_norm
            break
        made.optimizer_steps += 1
        if config.objective.kl_stop is not None and trajectory_kl > config.objective.kl_stop:
            made.stopped_by_kl = True
            break
    made.forward_tokens = int(ranks.sums([made.forward_tokens])[0])
    made.record.columns = ranks.collected(made.record.columns)
    return made


@torch.no_grad()
def with_proximal(policy: Policy, scored: Sequence[Scored], config: LearnerConfig) -> list[Scored]:
    """Each with its sampled tokens' log-probs by the policy as it is now: the proximal policy of decoupled PPO."""
    made: dict[str, list[npt.NDArray[np.float32]]] = {}  # by the trajectory's index
    with evaluating(policy.module):
        for indices in dealt([used_tokens(one) for one in scored], config.batch.micro_batch_tokens, policy.ranks):
            micro = make_micro_batch([scored[i] for i in indices])
            log_probs, _ = policy.log_probs(micro.to(policy.device), config.batch.log_prob_chunk, entropy=False)
            if indices:
                counts = torch.bincount(micro.trajectories).tolist()
                parts = torch.split(log_probs.cpu(), counts)
                made |= {str(i): [own.numpy()] for i, own in zip(indices, parts, strict=True)}
    made = policy.ranks.collected(made)
    return [replace(one, proximal=made[str(i)][0]) for i, one in enumerate(scored)]


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Dropout and whatever else draws: a generator's seed for each, from the run's seed, the step and the rank."""
    words = np.random.SeedSequence([seed, step, *([rank] if rank else [])]).generate_state(3)
    random.seed(int(words[0]))
    np.random.seed(int(words[1]))  # noqa: NPY002 - libraries draw from the old global generator
    torch.manual_seed(int(words[2]))


def _accumulate(
    policy: Policy, batch: Batch, config: LearnerConfig, policy_version: int, made: Update
) -> tuple[float, float]:
    """Add a batch's gradients up. Its loss, and its mean over trajectories of the k1 estimate of KL in nats.

    Both are of all ranks' micro-batches, so that all decide alike.
    """
    loss, k1 = 0.0, 0.0
    for on_cpu in batch.micro_batches:
        micro = on_cpu.to(policy.device)
        lags = policy_version - micro.versions
        chunk = config.batch.log_prob_chunk
        log_probs, entropy = policy.log_probs(micro, chunk, entropy=config.objective.entropy)
        reference = policy.base_log_probs(micro, chunk) if config.objective.kl_coefficient else None
        correction = correct(
            log_probs,
            micro.behaviour,
            proximal=micro.proximal,
            lags=lags,
            trajectories=micro.trajectories,
            config=config.correction,
        )
        share = policy_loss(
            log_probs,
            micro.behaviour,
            advantages=micro.advantages,
            turns=micro.turns,
            trajectories=micro.trajectories,
            totals=batch.totals,
            objective=config.objective,
            correction=correction,
            reference=reference,
        )
        (share.loss * micro.weight).backward()  # type: ignore[no-untyped-call]
        if not micro.weight:
            continue
        loss += float(share.loss.detach())
        k1 -= float(share.log_ratio.sum())
        made.forward_tokens += len(micro.tokens)
        made.record.add(
            log_ratio=share.log_ratio,
            clipped=share.clipped,
            lag=lags,
            entropy=entropy,
            log_weight=correction.log_weight if config.correction.weight != "none" else None,
            rejected=None if correction.kept is None else ~correction.kept,
            base_kl=None if reference is None else k3(log_probs.detach(), reference),
        )
    loss, k1 = policy.ranks.sums([loss, k1])
    return loss, k1 / batch.totals.trajectories
