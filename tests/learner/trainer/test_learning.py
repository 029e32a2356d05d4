"""The whole trainer learns: sampled by its own policy, rewarded for a share of even tokens, it comes to sample them."""

import json

import numpy as np
import pytest
import torch
from trainer_building import FakeGateway, make_model_folder, make_trajectory

from common.config import RunConfig
from learner.config import LearnerConfig
from learner.gateway.trainer_port import GroupRecord
from learner.trainer.loop import Trainer

PROMPT, SAMPLED = (7, 8, 9), 6


class SamplingGateway(FakeGateway):
    """Hands out groups that the trainer's policy has just sampled."""

    def __init__(self, *, groups, members):
        super().__init__({})
        self.shape = (groups, members)
        self.trainer = None

    def next_groups(self, step):
        groups, members = self.shape
        tokens, log_probs = sample(self.trainer.policy, groups * members, seed=step)
        made = []
        for g in range(groups):
            own = [
                make_trajectory(
                    f"s{step}g{g}.{k}.0",
                    tokens=(*PROMPT, *tokens[g * members + k]),
                    turns=((3, 5), (5, 3 + SAMPLED)),
                    version=self.trainer.state.policy_version,
                    log_probs=log_probs[g * members + k],
                    reward=float(np.mean(tokens[g * members + k] % 2 == 0)),
                )
                for k in range(members)
            ]
            made.append(GroupRecord(f"s{step}g{g}", "even_1", own))
        return made


@torch.no_grad()
def sample(policy, count, seed):
    """Continuations of the prompt [count, SAMPLED] with their log-probs, as an engine would report them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([PROMPT] * count)
    recorded = []
    for _ in range(SAMPLED):
        length = ids.shape[1]
        positions = torch.arange(length).repeat(count)
        hidden = policy.hidden(ids.flatten(), positions, (length,) * count)[length - 1 :: length]
        log_probs = torch.log_softmax(policy.head(hidden), -1)
        token = torch.multinomial(log_probs.exp(), 1, generator=generator)
        recorded.append(log_probs.gather(-1, token))
        ids = torch.cat([ids, token], 1)
    return ids[:, len(PROMPT) :].numpy(), torch.cat(recorded, 1).numpy()


@pytest.mark.parametrize(("training", "rate"), [("full", 1e-2), ("lora", 3e-2)])
def test_rewarded_tokens_become_likelier(tmp_path, training, rate):
    # weights large enough that an adapter alone can move the output distribution
    folder = make_model_folder(tmp_path / "base", deviation=0.2)
    config = LearnerConfig.model_validate(
        {
            "model": {"path": folder, "training": training, "device": "cpu"},
            "rollout": {"steps": 12, "groups_per_step": 8, "group_size": 12},
            "optimizer": {"learning_rate": rate, "clip_norm": 1.0},
        }
    )
    gateway = SamplingGateway(groups=8, members=12)
    gateway.trainer = Trainer(RunConfig(folder=tmp_path / "run"), config, gateway)
    gateway.trainer.start(resumed=False)
    gateway.trainer.run()
    events = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [event["mean_reward"] for event in events]
    assert np.mean(rewards[:2]) < 0.6
    assert np.mean(rewards[-2:]) > 0.85, rewards
    # sampled by the very policy that trains: engine and learner agree, so every ratio is 1
    assert max(event["ratios"]["ratio_max"] for event in events) == pytest.approx(1.0, abs=1e-4)
    assert all(event["ratios"]["clip_share"] == 0 for event in events)
