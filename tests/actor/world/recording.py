"""Trajectories as an actor records them, with the real episode, prompt and world: only the policy is a script."""

from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
from scripted import make_lease

from actor.episode import run_episode
from actor.policy import Sampled
from actor.trajectory import trajectory_of
from common.prompt import Prompt
from learner.warm_start.tokenizer import train_tokenizer

TEXTS = (
    "I am Ada Moss (ada.moss@mail.com, 123456).\nLike the song 'Silver River'.",
    "apis.spotify.like_song(song_id=n, access_token=t)\nprint(len(s))",
    "Execution failed. Traceback:\nuser\nassistant\nExecution successful.",
)
LONGEST = 4000  # tokens that the engine of these episodes holds


def make_prompt(config=None):
    return Prompt.of(train_tokenizer(TEXTS * 3, 400), config=config)


@dataclass
class Script:
    """Samples its texts as they are, one after the other, each cut where the episode's limits cut it."""

    prompt: Prompt
    texts: list[str]

    @asynccontextmanager
    async def episode(self):
        yield None

    async def generate(self, ids, *, temperature, max_tokens, pinned=None, max_seconds=None):
        sampled = [*self.prompt._encode(self.texts.pop(0)), *self.prompt.stop_ids][:max_tokens]
        finish = "stop" if sampled[-1] in self.prompt.stop_ids else "length"
        return Sampled(sampled, [-0.5] * len(sampled), [0] * len(sampled), finish, 0.0)


async def record(host, prompt, task_id, texts, *, name="g1.0.0", longest=LONGEST, **sampling):
    """The trajectory of an episode whose policy says `texts`; it ends at the last one, if not before."""
    limits = {"max_turns": len(texts), "max_turn_tokens": 1000, "max_context_tokens": LONGEST, **sampling}
    lease = make_lease(name, task_id=task_id, **limits)
    return trajectory_of(await run_episode(lease, Script(prompt, list(texts)), host, prompt, longest), "actor-0")


def with_spans(trajectory, spans, sampled_spans=None, **more):
    """The trajectory with other tokens: `spans` by the turn that they stand before, `sampled_spans` by their turn."""
    tokens, turns, parts, bounds = trajectory.tokens.tolist(), trajectory.turns.tolist(), [], []
    since = 0
    for number, (begin, end) in enumerate(turns):
        before = spans.get(number, tokens[since:begin])
        said = (sampled_spans or {}).get(number, tokens[begin:end])
        start = sum(map(len, parts)) + len(before)
        parts += [before, said]
        bounds.append((start, start + len(said)))
        since = end
    ids = [token for part in parts for token in part]
    sampled = np.zeros(len(ids), np.uint8)
    for begin, end in bounds:
        sampled[begin:end] = 1
    arrays = {
        "token_bytes": np.array(ids, "<i4").tobytes(),
        "sampled_bytes": sampled.tobytes(),
        "log_prob_bytes": (-0.5 * sampled).astype("<f4").tobytes(),
        "version_bytes": np.where(sampled, 0, -1).astype("<i4").tobytes(),
        "turn_bytes": np.array(bounds, "<i4").tobytes(),
    }
    return type(trajectory).model_validate(trajectory.model_copy(update={**arrays, **more}).model_dump())


def without_last_turn(trajectory):
    """As if the actor had stopped a turn earlier."""
    end = int(trajectory.turns[-2][1])
    arrays = {name: getattr(trajectory, name)[: 4 * end] for name in ("token_bytes", "log_prob_bytes", "version_bytes")}
    arrays |= {"sampled_bytes": trajectory.sampled_bytes[:end], "turn_bytes": trajectory.turn_bytes[:-8]}
    return type(trajectory).model_validate(trajectory.model_copy(update=arrays).model_dump())
