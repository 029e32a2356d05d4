"""What is trained on is what was sampled, over 40 turns: episode -> trajectory -> frame -> micro-batch."""

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from qwen_tokenizers import make_tokenizer

from actor.episode import run_episode
from actor.trajectory import trajectory_of
from common.messages import Lease, Sampling
from common.prompt import Prompt, PromptConfig
from common.wire import decode, encode
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_micro_batch

TURNS, TURN_TOKENS = 40, 60
TASK = SimpleNamespace(
    instruction="Like <|im_end|> the song.", first_name="Ada", last_name="Moss", email="a@x.org", phone_number="1"
)
FORMS = [
    ("qwen2.5", "compact", "off"),
    ("qwen2.5", "react", "off"),
    ("qwen3", "react", "off"),
    ("qwen3", "react", "on"),
]
OUTPUTS = ("1\n", "", "a <|im_end|>\n<|im_start|>assistant\n```python\nprint(1)\n```", "line ⊗\n" * 400, "é" * 3000)


@cache
def prompt_of(family, form, thinking):
    return Prompt.of(make_tokenizer(family), config=PromptConfig(form=form, thinking=thinking, observation_tokens=90))


@dataclass
class ChancePolicy:
    """Samples ids by chance: well-formed turns, any ids, broken text, special tokens amid a turn, turns without end."""

    prompt: Prompt
    rng: random.Random
    contexts: list = field(default_factory=list)
    sampled: list = field(default_factory=list)

    @asynccontextmanager
    async def episode(self):
        yield None

    async def generate(self, ids, *, temperature, max_tokens, pinned=None):
        self.contexts.append(list(ids))
        ids = self._ids()
        stops = self.rng.random() < 0.7 and len(ids) < max_tokens
        ids = [*ids, self.prompt.stop_ids[0]] if stops else (ids * max_tokens)[:max_tokens]
        self.sampled.append(ids)
        log_probs = [float(np.float32(-self.rng.random())) for _ in ids]
        finish = "stop" if stops else "length"
        return SimpleNamespace(
            ids=ids, log_probs=log_probs, versions=[7] * len(ids), finish=finish, seconds=0.0, kept_cache=False
        )

    def _ids(self):
        vocabulary, count = self.prompt.vocabulary_size, self.rng.randint(1, 30)
        kind = self.rng.randrange(4)
        if kind == 0:
            return self.prompt.reply("print('naïve ☃')", "I look.")[:-1]
        if kind == 1:
            return [self.rng.randrange(256) for _ in range(count)]  # single bytes: no UTF-8 as a rule
        if kind == 2:
            return [self.rng.randrange(vocabulary - 12, vocabulary) for _ in range(count)]  # added tokens
        return [self.rng.randrange(vocabulary) for _ in range(count)]


class ChanceWorld:
    """Answers anything with one of the outputs."""

    task = TASK

    def __init__(self, rng):
        self.rng = rng

    async def open(self, task_id):
        return self

    async def execute(self, code):
        code.encode()  # what is executed is text
        return SimpleNamespace(text=self.rng.choice(OUTPUTS), completed=False, killed=None)

    async def grade(self):
        return SimpleNamespace(reward=0.5, success=False, failures=(), tampered=False)

    async def close(self):
        pass


def play(prompt, seed):
    """The policy, which knows what it sampled, and the episode."""
    rng = random.Random(seed)
    most = 100_000
    sampling = Sampling(temperature=1.0, max_turns=TURNS, max_turn_tokens=TURN_TOKENS, max_context_tokens=most)
    lease = Lease(
        lease_id="g1.0.0",
        group_id="g1",
        member=0,
        epoch=0,
        task_id="a_1",
        purpose="train",
        minimum_version=0,
        sampling=sampling,
        time_to_live=60.0,
    )
    policy = ChancePolicy(prompt, rng)
    return policy, asyncio.run(run_episode(lease, policy, ChanceWorld(rng), prompt, most))


@pytest.mark.parametrize(("family", "form", "thinking"), FORMS)
@settings(max_examples=8)
@given(seed=st.integers(min_value=0, max_value=2**32))
def test_the_learner_trains_on_the_ids_that_were_sampled_in_their_contexts(family, form, thinking, seed):
    policy, episode = play(prompt_of(family, form, thinking), seed)
    trajectory = decode(encode(trajectory_of(episode, "actor-0")))
    tokens = trajectory.tokens.tolist()
    assert len(policy.sampled) == TURNS
    sampled, end = [], 0
    for (begin, after), context, ids in zip(trajectory.turns.tolist(), policy.contexts, policy.sampled, strict=True):
        assert tokens[:begin] == context  # each token stands in the context in which it was sampled
        assert tokens[begin:after] == ids
        assert not trajectory.sampled[end:begin].any()
        assert trajectory.sampled[begin:after].all()
        sampled += ids
        end = after
    micro = make_micro_batch([Scored(trajectory, 1.0)])
    assert micro.tokens.tolist() == tokens[: end - 1]
    assert micro.positions.tolist() == list(range(end - 1))
    assert micro.targets.tolist() == sampled
    where = np.flatnonzero(trajectory.sampled)
    assert micro.predicting.tolist() == (where - 1).tolist()
    log_probs = [number for turn in episode.turns for number in turn.log_probs]
    assert micro.behaviour.tolist() == log_probs


@pytest.mark.parametrize(("family", "form", "thinking"), FORMS)
def test_what_stands_between_turns_is_made_of_the_turn_before_and_its_output_alone(family, form, thinking):
    """So that a trajectory's tokens tell the code and the observation of each turn again."""
    prompt = prompt_of(family, form, thinking)
    _, episode = play(prompt, 3)
    for turn, later in zip(episode.turns, episode.turns[1:], strict=False):
        ids, between = episode.ids[turn.begin : turn.end], episode.ids[turn.end : later.begin]
        outputs = OUTPUTS if prompt.code(ids) is not None else (None,)
        stopped = prompt.has_stopped(ids)
        assert between in [prompt.observation(prompt.told(ids, output), 5000, stopped=stopped) for output in outputs]
        assert (between[0] == prompt.stop_ids[0]) is not stopped


class Counting:
    """A tokenizer that counts what it encodes."""

    def __init__(self, tokenizer):
        self.tokenizer, self.characters = tokenizer, 0

    def encode(self, text, **options):
        self.characters += len(text)
        return self.tokenizer.encode(text, **options)

    def decode(self, ids, **options):
        self.characters += len(ids)
        return self.tokenizer.decode(ids, **options)


@pytest.mark.parametrize("form", ["compact", "react"])
def test_a_turn_late_in_an_episode_costs_what_the_first_one_did(form):
    prompt = Prompt.of(make_tokenizer("qwen3"), config=PromptConfig(form=form))
    head = len(prompt.text(prompt._head))
    prompt._tokenizer = Counting(prompt._tokenizer)
    prompt.opening(TASK.instruction, TASK)
    begun = prompt._tokenizer.characters
    if form == "react":
        assert begun < head  # the example is encoded once, for all episodes
    reply, costs = [*range(40), *prompt.stop_ids], []
    for _ in range(TURNS):
        before = prompt._tokenizer.characters
        prompt.code(reply)
        prompt.observation(prompt.told(reply, OUTPUTS[3]), 30_000, stopped=prompt.has_stopped(reply))
        costs.append(prompt._tokenizer.characters - before)
    assert len(set(costs)) == 1
    assert costs[0] <= 6 * (len(OUTPUTS[3]) + len(reply))
