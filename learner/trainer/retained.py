"""Log-probs of a step's trajectories under the published versions that sampled them, with one copy of the LLM.

The trained parameters take a version's values in place, tensor by tensor from its files, and afterwards those of the
newest state again, bit for bit; of several ranks each its share, all in the same order. Nothing is trained here;
mismatch.py makes figures of what comes out.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open

from common.checkpoint import folder_of, read_manifest
from common.errors import RunError
from common.log import Stopwatch, get_logger
from learner.config import LearnerConfig
from learner.trainer.advantage import Scored
from learner.trainer.batch import MicroBatch, make_micro_batch
from learner.trainer.mismatch import TokenSplit, drawn
from learner.trainer.model import Policy, evaluating
from learner.trainer.ranks import own_share, share_of

log = get_logger(__name__)

ADAPTER = "adapter_model.safetensors"


@dataclass(frozen=True)
class Kept:
    """Where weights can be read from."""

    checkpoints: Path  # folder of the published versions
    weights: Path  # the trained parameters as they are now, a state's file


def recompute(
    policy: Policy,
    scored: Sequence[Scored],
    config: LearnerConfig,
    kept: Kept,
    *,
    step: int,
    policy_version: int,
    seed: int,
) -> dict[str, Any]:
    """The figures of mismatch.py for a share of `scored` drawn from (seed, step); empty when that share is 0.

    Each token is scored under its own version, its whole prefix included, also where a trajectory has several. Tokens
    of the learner's version need no file: their staleness is 0. Costs a forward pass of the share for each version, and
    where there are older ones as many readings of what is trained.

    Raises:
        RunError: the parameters could not be restored.
    """
    if config.diagnostics.recomputed_share == 0 or not scored:
        return {}
    watch, chunk = Stopwatch(), config.batch.log_prob_chunk
    chosen = drawn(len(scored), config.diagnostics.recomputed_share, (seed, step))
    alone = [make_micro_batch([scored[index]]) for index in chosen]  # one a pass: they are few
    current = [_log_probs(policy, micro, torch.ones(len(micro.targets), dtype=torch.bool), chunk) for micro in alone]
    retained = [
        np.where(micro.versions.numpy() == policy_version, values, np.float32(np.nan))
        for micro, values in zip(alone, current, strict=True)
    ]
    older = sorted({int(version) for micro in alone for version in micro.versions} - {policy_version})
    before = _digests(policy) if older else []
    try:
        for version in older:
            if not _take_version(policy, kept.checkpoints, version):
                continue
            for micro, values in zip(alone, retained, strict=True):
                wanted = micro.versions == version
                if wanted.any():
                    values[wanted.numpy()] = _log_probs(policy, micro, wanted, chunk)
    finally:
        if older:
            _restore(policy, kept.weights, before)
    split = TokenSplit(
        current=np.concatenate(current),
        retained=np.concatenate(retained),
        behaviour=np.concatenate([micro.behaviour.numpy() for micro in alone]),
        lag=policy_version - np.concatenate([micro.versions.numpy() for micro in alone]),
        trajectory=np.concatenate([np.full(len(micro.targets), index) for index, micro in enumerate(alone)]),
    )
    watch.lap("all")
    return {**split.summary(), "seconds": round(watch.seconds["all"], 4)}


@torch.no_grad()
def _log_probs(policy: Policy, micro: MicroBatch, wanted: torch.Tensor, chunk: int) -> npt.NDArray[np.float32]:
    """Log-probs of the wanted [S] targets of one trajectory under the parameters as they are, dropout off."""
    predicting = micro.predicting[wanted]
    length = int(predicting[-1]) + 1  # what comes after the last wanted token cannot matter
    starts = itertools.accumulate(micro.lengths, initial=0)
    part = replace(
        micro,
        tokens=micro.tokens[:length],
        positions=micro.positions[:length],
        lengths=tuple(
            min(own, length - start) for start, own in zip(starts, micro.lengths, strict=False) if start < length
        ),
        predicting=predicting,
        targets=micro.targets[wanted],
    )
    with evaluating(policy.module):
        values, _ = policy.log_probs(part.to(policy.device), chunk, entropy=False)
    made: npt.NDArray[np.float32] = values.cpu().numpy()
    return made


def _take_version(policy: Policy, checkpoints: Path, version: int) -> bool:
    """Give the trained parameters a version's values. False, and a line in the log, when it cannot be read."""
    folder, parameters = folder_of(checkpoints, version), policy.trainable()
    try:
        manifest, _ = read_manifest(folder)
        if policy.is_adapter and manifest.kind == "full":
            with torch.no_grad():
                for parameter in parameters.values():
                    parameter.zero_()  # the base as it is: an adapter of zeros adds exactly 0
        elif policy.is_adapter:
            # peft leaves the adapter's name, `default`, out of what it writes
            by_name = {name.replace(".default.", "."): value for name, value in parameters.items()}
            _take_files(by_name, [folder / ADAPTER])
        else:
            _take_files(parameters, sorted(folder.glob("*.safetensors")))
    except (OSError, RunError, SafetensorError) as error:
        log.warning("version_unavailable", policy_version=version, reason=str(error))
        return False
    return True


@torch.no_grad()
def _take_files(parameters: Mapping[str, torch.nn.Parameter], files: Sequence[Path]) -> None:
    """Give parameters what safetensors files hold under their names, one tensor in memory at a time.

    Raises:
        OSError, SafetensorError: a file cannot be read.
        RunError: a parameter is in none of them, or has another shape there.
    """
    missing = set(parameters)
    for file in files:
        with safe_open(file, "pt") as stored:
            for name in sorted(missing & set(stored.keys())):
                value = stored.get_tensor(name)
                if value.shape != parameters[name].shape:
                    raise RunError(f"{file}: {name} has the shape {tuple(value.shape)}")
                parameters[name].copy_(share_of(value, parameters[name]))
                missing.remove(name)
    if missing:
        raise RunError(f"no file holds {min(missing)}")


def _restore(policy: Policy, weights: Path, before: list[int]) -> None:
    """Give the trained parameters the state's values again, and see that they are what they were."""
    try:
        _take_files(policy.trainable(), [weights])
    except (OSError, SafetensorError) as error:
        raise RunError(f"{weights}: {error}: the parameters cannot be restored: start again with --resume") from None
    if _digests(policy) != before:
        raise RunError(f"{weights}: not the parameters of before the step: start again with --resume")


def _digests(policy: Policy) -> list[int]:
    """One number a trained parameter, the sum of its float32 bits as integers: other weights have other sums.

    Of several ranks each looks at its own share.
    """
    return [int(own_share(value.detach()).view(torch.int32).sum()) for value in policy.trainable().values()]
