"""The real engine: every context's own tokens, in a plain forward pass, give the log-probs that its turns were sampled
with; and a turn whose time is over is what was sampled of it.
"""

import asyncio
import random
from types import SimpleNamespace

import numpy as np
import pytest
from event_loop import Loop
from scripted import TASK, make_lease
from tiny_model import STOP, VOCABULARY, make_model, reference_log_probs

from actor.config import EngineConfig
from actor.episode import run_episode
from actor.policy import Policy
from actor.trajectory import trajectory_of
from common.wire import decode, encode
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_micro_batch

pytestmark = pytest.mark.filterwarnings("ignore")  # of vLLM's imports, and of the process that it forks
LIMIT = 200


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    folder = make_model(tmp_path_factory.mktemp("model") / "m", 5)
    loop = Loop()
    config = EngineConfig(dtype="float32", context_tokens=1024, kv_cache_megabytes=64)

    async def start():
        policy = await Policy.start(folder, 0, config, mode="in_flight", slots=4, seed=1, stop_ids=[STOP])
        await policy.use(0)
        return policy

    policy = loop.run(start())
    yield loop, policy, folder
    loop.run(asyncio.to_thread(policy.stop))
    loop.close()


class NumberPrompt:
    """Observations are lists of ids between 1 and 2; a stub is 1, 3, 2."""

    freed_share = 0.4

    def opening(self, instruction, supervisor):
        return list(range(20, 50))

    def observation(self, text, room, *, stopped=True):
        return [1, *map(int, text.split()), 2][:room]

    def stub(self, *, stopped=True):
        return [1, 3, 2]

    def code(self, ids):
        return "code"

    def told(self, ids, output):
        return output

    def has_stopped(self, ids):
        return ids[-1:] == [STOP]


class NumberWorld:
    task = TASK

    def __init__(self):
        self.chance = random.Random(2)

    async def open(self, task_id):
        return self

    async def execute(self, code):
        text = " ".join(str(self.chance.randrange(4, VOCABULARY)) for _ in range(self.chance.randrange(10, 45)))
        return SimpleNamespace(text=text, completed=False, killed=None)

    async def grade(self):
        return SimpleNamespace(reward=0.5, success=False, failures=(), tampered=False)

    async def close(self):
        pass


def test_every_context_gives_the_log_probs_that_its_turns_were_sampled_with(engine):
    loop, policy, folder = engine
    lease = make_lease(max_turns=16, max_turn_tokens=12, max_context_tokens=LIMIT)
    episode = loop.run(run_episode(lease, policy, NumberWorld(), NumberPrompt(), 1024))
    trajectory = decode(encode(trajectory_of(episode, "actor-0")))
    assert "stubs" in episode.tags
    assert len(trajectory.contexts) > 2
    assert len(trajectory.turns) > 6
    found = []
    for begin, end in trajectory.contexts:
        assert end - begin <= LIMIT
        expected = [0.0, *reference_log_probs(folder, trajectory.tokens[begin:end].tolist())]
        sampled = trajectory.sampled[begin:end]
        found += np.array(expected)[sampled].tolist()
        np.testing.assert_allclose(trajectory.log_probs[begin:end][sampled], np.array(expected)[sampled], atol=1e-5)
    micro = make_micro_batch([Scored(trajectory, 1.0)])
    np.testing.assert_allclose(micro.behaviour.numpy(), found, atol=1e-5)
    assert sum(micro.lengths) == len(micro.tokens)
    assert len(micro.lengths) == len(trajectory.contexts)


def test_a_turn_whose_time_is_over_is_what_was_sampled_and_the_engine_has_it_no_more(engine):
    loop, policy, folder = engine
    prompt = list(range(20, 50))

    async def sample(seconds):
        return await policy.generate(prompt, temperature=1.0, max_tokens=900, max_seconds=seconds)

    # one turn in five stops of its own accord before its time is over; a longer time would make that more likely
    cut = next(turn for _ in range(40) if (turn := loop.run(sample(0.05))).finish == "time")
    assert len(cut.ids) < 900
    assert policy.engine.under_way == 0
    if cut.ids:
        expected = reference_log_probs(folder, [*prompt, *cut.ids])[len(prompt) - 1 :]
        np.testing.assert_allclose(cut.log_probs, expected, atol=1e-5)
