"""One rank of a trainer whose gateway is a Python object.

    rank_worker.py FOLDER NAME...      each NAME a scenario of `SCENARIOS`, trained (or gone on with) in FOLDER/NAME

The same function trains it alone in the test's own process, for comparison.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from trainer_building import FakeGateway, random_groups

from common.config import RunConfig
from learner.config import LearnerConfig
from learner.gateway.trainer_port import GroupRecord
from learner.trainer.loop import Trainer
from learner.trainer.port import SharedPort
from learner.trainer.ranks import ALONE, Ranks, joined, leave

# 7 trajectories a step, minibatches of 3: ranks get unequal shares, and of the last one, which is one, one gets none
SCENARIOS = {
    "full": {
        "batch": {"micro_batch_tokens": 60, "minibatch": 3, "epochs": 2},
        "diagnostics": {"recomputed_share": 0.2},
    },
    "tied": {"model": {"recompute_activations": True}, "batch": {"log_prob_chunk": 8}},
    "lora": {
        "model": {"training": "lora", "lora": {"rank": 3, "alpha": 6}},
        "batch": {"micro_batch_tokens": 60, "log_prob_chunk": 8, "minibatch": 3},
        "objective": {"kl_coefficient": 0.1},
        "correction": {"proximal": "recomputed", "weight": "token"},
    },
    "poisoned": {},
    "resumed": {},
}
STEPS = 2


def groups_of(name: str) -> dict[int, list[GroupRecord]]:
    """A step's groups each; in `poisoned` the first step's has one trajectory whose loss is not finite."""
    steps = {step: random_groups(step, groups=1, members=7) for step in range(1, STEPS + 2)}
    if name == "poisoned":
        (record,) = steps[1]
        worst = min(record.members, key=lambda member: member.reward)
        impossible = np.where(worst.sampled, np.float32(-1e30), np.float32(0)).astype("<f4").tobytes()
        members = [
            one.model_copy(update={"log_prob_bytes": impossible}) if one is worst else one for one in record.members
        ]
        steps[1] = [dataclasses.replace(record, members=members)]
    return steps


def train(folder: Path, name: str, ranks: Ranks = ALONE, *, resumed: bool = False, steps: int = STEPS) -> Trainer:
    """A trainer's life in `folder`/NAME on the model in `folder`/base (its head tied in `tied`).

    Rank 0 leaves what the gateway was told, and each rank how many of the model's parameters it held.
    """
    sections = dict(SCENARIOS[name])
    base = folder / ("tied-base" if name == "tied" else "base")
    config = LearnerConfig.model_validate(
        {
            "rollout": {"steps": steps, "staleness_bound": 100},
            "optimizer": {"learning_rate": 1e-3, "clip_norm": 0.05},
            **sections,
            "model": {"path": base, "device": "cpu", **sections.get("model", {})},
        }
    )
    gateway = FakeGateway(groups_of(name), waits=1)
    port = gateway if ranks.is_alone else SharedPort(gateway if ranks.is_first else None, ranks)
    trainer = Trainer(RunConfig(folder=folder / name), config, port, ranks)
    trainer.start(resumed=resumed)
    trainer.run()
    if ranks.is_first:
        (folder / name / "told.json").write_text(json.dumps([gateway.told, gateway.is_finished]))
    held = [getattr(one, "to_local", lambda one=one: one)().numel() for one in trainer.policy.module.parameters()]
    (folder / name / f"held-{ranks.rank}.json").write_text(json.dumps(sum(held)))
    return trainer


def main(words: list[str]) -> int:
    torch.set_num_threads(1)
    folder = Path(words[0])
    with joined() as ranks:
        for name in words[1:]:
            train(folder, name, ranks, resumed=(folder / name).exists())
    return 0


if __name__ == "__main__":
    leave(main, sys.argv[1:])
