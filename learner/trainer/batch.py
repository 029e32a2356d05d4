"""Stage 7: scored trajectories -> optimizer steps' batches, each of packed micro-batches.

Trajectories lie end to end in one row without padding, and attention runs per context (attention.py): measured on
one core with 72 trajectories of 100 to 600 tokens this costs what the best sorted padding costs, whatever the budget,
while one dense block-diagonal mask costs 2 to 6 times as much; and it wastes nothing when lengths are skewed.
A trajectory is one context as a rule. Where it has several (common/rollouts.py), each is a sequence of its own, and all
of them lie in one micro-batch: a ratio or a mean over a trajectory is over all of its sampled tokens.
A context enters up to its last sampled token, which is a target only: what comes after carries no loss.
In several processes each makes its own share of the micro-batches, and all make as many: a pass takes every rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from common.messages import Trajectory
from learner.trainer.advantage import Scored
from learner.trainer.config import BatchConfig
from learner.trainer.ranks import ALONE, Ranks


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """One forward and backward pass. P tokens of whole trajectories end to end, S of their targets sampled."""

    tokens: torch.Tensor  # int64 [P]
    positions: torch.Tensor  # int64 [P], from 0 in each context
    lengths: tuple[int, ...]  # tokens of each context; their sum is P
    predicting: torch.Tensor  # int64 [S], index in [P] of the token whose hidden state predicts the target
    targets: torch.Tensor  # int64 [S], sampled token ids
    behaviour: torch.Tensor  # float32 [S], log-probs at sampling time, nats
    advantages: torch.Tensor  # float32 [S]
    turns: torch.Tensor  # int64 [S], turn's index, unique in the micro-batch, ascending from 0
    trajectories: torch.Tensor  # int64 [S], trajectory's index in the micro-batch, ascending from 0
    versions: torch.Tensor  # int64 [S], policy version that sampled the target
    proximal: torch.Tensor | None = None  # float32 [S], log-probs at the step's start, where they were recomputed, nats
    weight: float = 1.0  # of its loss; 0 where it only keeps this rank in step with the others

    def to(self, device: torch.device) -> MicroBatch:
        """The same on a device."""
        moved = {name: getattr(self, name).to(device) for name in _COLUMNS}
        proximal = None if self.proximal is None else self.proximal.to(device)
        return MicroBatch(**moved, lengths=self.lengths, proximal=proximal, weight=self.weight)


@dataclass(frozen=True, kw_only=True)
class Totals:
    """Counts over a whole batch, by which every micro-batch's loss is divided: so its split does not matter."""

    trajectories: int
    turns: int
    tokens: int  # sampled


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """What one optimizer step sees: this rank's micro-batches, and the totals of all ranks'."""

    micro_batches: tuple[MicroBatch, ...]
    totals: Totals

    @property
    def forward_tokens(self) -> int:
        """Tokens that pass through the model."""
        return sum(len(micro.tokens) for micro in self.micro_batches if micro.weight)


def batches(
    scored: Sequence[Scored], config: BatchConfig, seed: Sequence[int], ranks: Ranks = ALONE
) -> Iterator[Batch]:
    """A step's batches: `epochs` passes, each in a new order drawn from `seed`, cut into minibatches."""
    size = config.minibatch or len(scored)
    rng = np.random.default_rng(list(seed))
    for _ in range(config.epochs):
        order = rng.permutation(len(scored)) if size < len(scored) else np.arange(len(scored))
        for begin in range(0, len(scored), size):
            yield make_batch([scored[i] for i in order[begin : begin + size]], config.micro_batch_tokens, ranks)


def make_batch(scored: Sequence[Scored], budget: int, ranks: Ranks = ALONE) -> Batch:
    """One optimizer step's batch, its micro-batches of at most `budget` tokens (or one longer trajectory)."""
    lengths = [used_tokens(one) for one in scored]
    own = dealt(lengths, budget, ranks)
    turns = (one.trajectory.turns for one in scored)
    totals = Totals(
        trajectories=len(scored),
        turns=sum(int((bounds[:, 1] > bounds[:, 0]).sum()) for bounds in turns),
        tokens=sum(int(one.trajectory.sampled.sum()) for one in scored),
    )
    return Batch(micro_batches=tuple(make_micro_batch([scored[i] for i in bin_]) for bin_ in own), totals=totals)


def dealt(lengths: Sequence[int], budget: int, ranks: Ranks) -> list[list[int]]:
    """A rank's share of `lengths`, packed: bins of indices, as many on every rank, empty where it has fewer.

    Whole trajectories, the longest first, each to the rank with the fewest tokens so far.
    """
    shares: list[list[int]] = [[] for _ in range(ranks.count)]
    loads = [0] * ranks.count
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = loads.index(min(loads))
        shares[rank].append(index)
        loads[rank] += lengths[index]
    packed = [[[share[i] for i in bin_] for bin_ in pack([lengths[i] for i in share], budget)] for share in shares]
    own = packed[ranks.rank]
    return [*own, *([] for _ in range(max(map(len, packed)) - len(own)))]


def pack(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` in bins of at most `budget`, first fit by falling length. One that is longer has its own."""
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = next((b for b, free in enumerate(room) if free >= lengths[index]), None)
        if fitting is None:
            bins.append([])
            room.append(budget)
            fitting = len(bins) - 1
        bins[fitting].append(index)
        room[fitting] -= lengths[index]
    return bins


def used_tokens(scored: Scored) -> int:
    """Tokens of a trajectory that the model must see: of each context those before its last sampled one."""
    return int(np.diff(_used_spans(scored.trajectory)).sum())


def _used_spans(trajectory: Trajectory) -> npt.NDArray[np.int64]:
    """Begin and end of what the model must see of each context [C, 2]."""
    where = np.flatnonzero(trajectory.sampled)  # [s]
    contexts = trajectory.contexts
    last = where[np.searchsorted(where, contexts[:, 1]) - 1]  # [C]
    return np.stack((contexts[:, 0].astype(np.int64), last), axis=1)


def make_micro_batch(scored: Sequence[Scored]) -> MicroBatch:
    """Trajectories end to end. Each context begins with a token that was not sampled (groups.py sees to it).

    Of none: one token whose loss has no weight.
    """
    if not scored:
        token: dict[str, Any] = {name: torch.zeros(1, dtype=kind) for name, kind in _COLUMNS.items()}
        return MicroBatch(**token, lengths=(1,), proximal=torch.zeros(1), weight=0.0)
    columns: dict[str, list[np.ndarray[tuple[int], np.dtype[np.generic]]]] = {name: [] for name in _COLUMNS}
    lengths, begin, turn_count = [], 0, 0
    for index, one in enumerate(scored):
        trajectory = one.trajectory
        where = np.flatnonzero(trajectory.sampled)  # [s]
        spans = _used_spans(trajectory)  # [C, 2]
        parts = [slice(first, end) for first, end in spans.tolist()]
        own = [part.stop - part.start for part in parts]
        starts = begin + np.cumsum([0, *own[:-1]])  # [C], in the row
        context = np.searchsorted(spans[:, 0], where, side="right") - 1  # [s]
        # the turn of a position is the last one that begins at or before it; empty turns get no number
        turn = np.searchsorted(trajectory.turns[:, 0], where, side="right") - 1
        turn = np.unique(turn, return_inverse=True)[1]
        columns["tokens"] += [trajectory.tokens[part] for part in parts]
        columns["positions"] += [np.arange(length) for length in own]
        columns["predicting"].append(where - 1 - spans[context, 0] + starts[context])
        columns["targets"].append(trajectory.tokens[where])
        columns["behaviour"].append(trajectory.log_probs[where])
        columns["advantages"].append(np.full(len(where), one.advantage))
        columns["turns"].append(turn + turn_count)
        columns["trajectories"].append(np.full(len(where), index))
        columns["versions"].append(trajectory.versions[where])
        lengths += own
        begin += sum(own)
        turn_count += int(turn[-1]) + 1
    tensors: dict[str, Any] = {
        name: torch.from_numpy(np.concatenate(columns[name])).to(kind) for name, kind in _COLUMNS.items()
    }
    recomputed = [one.proximal for one in scored if one.proximal is not None]
    proximal = torch.from_numpy(np.concatenate(recomputed)) if len(recomputed) == len(scored) else None
    return MicroBatch(**tensors, lengths=tuple(lengths), proximal=proximal)


_COLUMNS = {
    "tokens": torch.int64,
    "positions": torch.int64,
    "predicting": torch.int64,
    "targets": torch.int64,
    "behaviour": torch.float32,
    "advantages": torch.float32,
    "turns": torch.int64,
    "trajectories": torch.int64,
    "versions": torch.int64,
}
