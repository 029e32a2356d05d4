"""What is learned first: copying alone, then the cells of a task, then whole episodes. Demonstrations in, batches out.

A small model meets three kinds of example, each of which makes the next one easy:

    echo     some values to say again in their order: nearly every token is copied
    drill    the instruction and the turns that do the task, without the prompt's head and without logging in
    episode  what an actor's episode holds, token for token
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from common.messages import Int32
from common.prompt import Prompt
from learner.warm_start.demonstrations import DemonstratedTurn, Demonstration
from learner.warm_start.renaming import Renamer

LOG_IN = ".login("
ECHOED = (4, 8)  # values in an echo, least and most
SORTED_BATCHES = 16  # batches whose examples are sorted by length together, so that little is padded


@dataclass(frozen=True, kw_only=True)
class Example:
    """Tokens to learn from. `tokens` [T]; `sampled` [T], True where the policy would have sampled the token."""

    tokens: Int32
    sampled: np.ndarray[tuple[int], np.dtype[np.bool_]]


def episode(demonstration: Demonstration, prompt: Prompt, context: int) -> Example:
    """The tokens that an actor's episode would hold."""
    return _example(
        prompt.opening(demonstration.instruction, demonstration.supervisor), demonstration.turns, prompt, context
    )


def drill(demonstration: Demonstration, prompt: Prompt, context: int) -> Example:
    """The task without its constant parts, which take most of an episode's tokens and teach least."""
    turns = [turn for turn in demonstration.turns if LOG_IN not in turn.code] or demonstration.turns
    return _example(prompt.observation(demonstration.instruction, context), turns, prompt, context)


def echo(values: Sequence[str], prompt: Prompt, context: int) -> Example:
    """Quoted values as an observation, and again as code."""
    text = " ".join(f"'{value}'" for value in values)
    return _example(prompt.observation(text, context), [DemonstratedTurn(code=text, observation="")], prompt, context)


def _example(head: list[int], turns: Sequence[DemonstratedTurn], prompt: Prompt, context: int) -> Example:
    tokens = list(head)
    sampled = [False] * len(tokens)
    for number, turn in enumerate(turns, start=1):
        reply = prompt.reply(turn.code)
        seen = prompt.observation(turn.observation, context) if number < len(turns) else []
        tokens += reply + seen
        sampled += [True] * len(reply) + [False] * len(seen)
    return Example(tokens=np.array(tokens, np.int32), sampled=np.array(sampled, np.bool_))


class Curriculum:
    """Endless streams of examples of each kind, in an order that the random generator decides."""

    def __init__(
        self, demonstrations: Sequence[Demonstration], prompt: Prompt, context: int, renaming: float, rng: random.Random
    ) -> None:
        self._demonstrations, self._prompt, self._context = demonstrations, prompt, context
        self._renaming, self._rng = renaming, rng
        self._renamer = Renamer(demonstrations)

    def echoes(self) -> Iterator[Example]:
        while True:
            values = [self._renamer.any_value(self._rng) for _ in range(self._rng.randint(*ECHOED))]
            yield echo(values, self._prompt, self._context)

    def drills(self) -> Iterator[Example]:
        for demonstration in self._shuffled():
            yield drill(demonstration, self._prompt, self._context)

    def episodes(self) -> Iterator[Example]:
        for demonstration in self._shuffled():
            yield episode(demonstration, self._prompt, self._context)

    def _shuffled(self) -> Iterator[Demonstration]:
        """Every demonstration once, in a new order each time, some with other values."""
        while True:
            for one in self._rng.sample(self._demonstrations, len(self._demonstrations)):
                yield self._renamer.renamed(one, self._rng) if self._rng.random() < self._renaming else one


def batches(examples: Iterator[Example], size: int, context: int, rng: random.Random) -> Iterator[list[Example]]:
    """Batches of `size`, examples of similar length together; those longer than `context` tokens are left out."""
    short = (example for example in examples if len(example.tokens) <= context)
    while True:
        near = sorted((next(short) for _ in range(size * SORTED_BATCHES)), key=lambda example: len(example.tokens))
        cut = [near[i : i + size] for i in range(0, len(near), size)]
        rng.shuffle(cut)
        yield from cut
