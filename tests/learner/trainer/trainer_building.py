"""What trainer tests are made of: trajectories, groups, a tiny model folder, a gateway that is a Python object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from common.messages import Lease, Sampling, Trajectory
from learner.gateway.trainer_port import GroupRecord, Resume, TrainerWelcome, Waiting
from learner.trainer.publish import PROBE_TEXT


def make_trajectory(
    name: str = "g1.0.0",
    *,
    tokens: Sequence[int] = (1, 2, 3, 4, 5, 6, 7, 8),
    turns: Sequence[tuple[int, int]] = ((2, 4), (6, 7)),
    repeats: Sequence[tuple[int, int]] = (),
    version: int | Sequence[int] = 0,
    reward: float = 0.0,
    log_probs: Sequence[float] | None = None,
    temperature: float = 1.0,
    purpose: str = "train",
) -> Trajectory:
    """A trajectory whose sampled tokens are those of `turns`; `log_probs` and `version` are of the sampled tokens."""
    group, member, epoch = name.split(".")
    sampled = np.zeros(len(tokens), np.bool_)
    for begin, end in turns:
        sampled[begin:end] = True
    behaviour = np.zeros(len(tokens), np.float32)
    behaviour[sampled] = -1.0 if log_probs is None else np.asarray(log_probs, np.float32)
    versions = np.full(len(tokens), -1, np.int32)
    versions[sampled] = version
    lease = Lease(
        lease_id=name,
        group_id=group,
        member=int(member),
        epoch=int(epoch),
        task_id=f"task_{group}",
        purpose=purpose,
        minimum_version=0,
        sampling=Sampling(temperature=temperature, max_turns=7, max_turn_tokens=90, max_context_tokens=640),
        time_to_live=60.0,
    )
    return Trajectory(
        trajectory_id=name,
        lease=lease,
        actor="actor-0",
        token_bytes=np.asarray(tokens, "<i4").tobytes(),
        sampled_bytes=sampled.astype("u1").tobytes(),
        log_prob_bytes=behaviour.astype("<f4").tobytes(),
        version_bytes=versions.astype("<i4").tobytes(),
        turn_bytes=np.asarray(turns, "<i4").tobytes(),
        context_bytes=np.asarray(repeats, "<i4").tobytes(),
        reward=reward,
        success=reward == 1.0,
        started_at=1.7e9,
        seconds=1.0,
        engine_seconds=0.5,
        world_seconds=0.1,
    )


def random_trajectory(
    rng: np.random.Generator,
    name: str,
    *,
    length: int,
    vocabulary: int = 300,
    version: int = 0,
    reward: float | None = None,
    log_prob: float = -5.7,
) -> Trajectory:
    """Some turns in `length` random tokens, behaviour log-probs near `log_prob`."""
    cuts = np.sort(rng.choice(np.arange(1, length), size=2 * max(1, length // 20), replace=False))
    turns = [(int(a), int(b)) for a, b in cuts.reshape(-1, 2)]
    count = sum(b - a for a, b in turns)
    return make_trajectory(
        name,
        tokens=rng.integers(vocabulary, size=length),
        turns=turns,
        version=version,
        reward=float(rng.integers(5)) / 4 if reward is None else reward,
        log_probs=np.minimum(0.0, log_prob + 0.1 * rng.standard_normal(count)),
    )


def make_group(name: str, rewards: Sequence[float], **options: object) -> GroupRecord:
    """A group with a member a reward."""
    members = [make_trajectory(f"{name}.{k}.0", reward=reward, **options) for k, reward in enumerate(rewards)]
    return GroupRecord(name, f"task_{name}", members)


def random_groups(
    seed: int, *, groups: int = 2, members: int = 3, version: int = 0, vocabulary: int = 300
) -> list[GroupRecord]:
    """Groups of random trajectories; the first two members of each differ in reward."""
    rng = np.random.default_rng(seed)
    made = []
    for index in range(groups):
        name = f"s{seed}g{index}"
        rewards = [0.0, 1.0, *(rng.integers(5, size=members - 2) / 4)]
        trajectories = [
            random_trajectory(
                rng,
                f"{name}.{k}.0",
                length=int(rng.integers(8, 60)),
                version=version,
                vocabulary=vocabulary,
                reward=float(reward),
            )
            for k, reward in enumerate(rewards)
        ]
        made.append(GroupRecord(name, f"task_{name}", trajectories))
    return made


def make_model_folder(
    folder: Path,
    *,
    hidden: int = 32,
    layers: int = 2,
    heads: int = 4,
    key_value_heads: int = 2,
    seed: int = 0,
    deviation: float = 0.02,
    tied: bool = False,
) -> Path:
    """A small random Qwen2 with a tokenizer of 300 entries or fewer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROBE_TEXT], trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    ).save_pretrained(folder)
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_value_heads,
        max_position_embeddings=640,
        tie_word_embeddings=tied,
        initializer_range=deviation,
        bos_token_id=None,
        eos_token_id=2,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    GenerationConfig(eos_token_id=2).save_pretrained(folder)
    return folder


class FakeGateway:
    """A trainer port that hands out `groups[step]` and remembers what it was told."""

    def __init__(self, groups: Mapping[int, list[GroupRecord]], waits: int = 0) -> None:
        self.groups = groups
        self.waits = waits
        self.told: list[tuple[int, str, int, tuple[str, ...], dict[str, str]]] = []
        self.resumed: list[Resume | None] = []
        self.is_finished = False
        self.in_use: frozenset[int] = frozenset()  # versions that actors are said to use

    def hello(self, resume: Resume | None) -> TrainerWelcome:
        self.resumed.append(resume)
        return TrainerWelcome(run_id="test-run", policy_version=-1, step=0)

    def next_groups(self, step: int) -> list[GroupRecord] | Waiting:
        if self.waits:
            self.waits -= 1
            return Waiting("2 groups: g1 has 4 of 6")
        return self.groups[step]

    def published(
        self, version: int, manifest_digest: str, step: int, consumed: Sequence[str], dropped: Mapping[str, str]
    ) -> frozenset[int]:
        self.told.append((version, manifest_digest, step, tuple(consumed), dict(dropped)))
        return self.in_use

    def finished(self) -> None:
        self.is_finished = True
