"""Other values in the same demonstration, so that copying pays and knowing by heart does not.

A value that the code copies, from the instruction or an observation, is replaced wherever it stands. The new one is
put together word by word from values of the same form, so 'Kai Hart' and 'Silver River' may give 'Silver Hart'.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable

from learner.warm_start.demonstrations import Demonstration

# what code copies: a quoted text, or a number given as an argument
IN_CODE = re.compile(r"(?<=')[^'\n]+(?=')|(?<==)\d+(?![\w.])")
IN_INSTRUCTION = re.compile(r"(?<=')[^'\n]+(?=')|(?<![\w.'])\d+(?![\w'])")

Form = tuple[str, ...]


def form_of(value: str) -> Form:
    """How a value looks, word by word: capitalised, lower case, or its pattern of digits and signs."""
    return tuple(
        ("Word" if word[0].isupper() else "word") if word.isalpha() else re.sub(r"\d", "9", word)
        for word in value.split(" ")
    )


def copied_values(demonstration: Demonstration) -> set[str]:
    """Values in the code that an earlier text of the episode holds."""
    known = set(IN_INSTRUCTION.findall(demonstration.instruction))
    found: set[str] = set()
    for turn in demonstration.turns:
        found |= known & set(IN_CODE.findall(turn.code))
        known.add(turn.observation.strip())
    return found


class Renamer:
    """Draws replacements from what the demonstrations themselves hold."""

    def __init__(self, demonstrations: Iterable[Demonstration]) -> None:
        words: dict[tuple[Form, int], set[str]] = defaultdict(set)
        for demonstration in demonstrations:
            for value in copied_values(demonstration):
                for place, word in enumerate(value.split(" ")):
                    words[form_of(value), place].add(word)
        self._words = {key: sorted(pool) for key, pool in words.items()}
        self._forms = sorted({form for form, _ in words})

    def any_value(self, rng: random.Random) -> str:
        """A value of some form."""
        return self._value(rng.choice(self._forms), rng)

    def _value(self, form: Form, rng: random.Random) -> str:
        return " ".join(rng.choice(self._words[form, place]) for place in range(len(form)))

    def renamed(self, demonstration: Demonstration, rng: random.Random) -> Demonstration:
        """The same episode with other values; as it was when two of them would become one."""
        names = {value: self._value(form_of(value), rng) for value in sorted(copied_values(demonstration))}
        if len(set(names.values())) < len(names):
            return demonstration

        def swap(match: re.Match[str]) -> str:
            return names.get(match.group(), match.group())

        turns = tuple(
            turn.model_copy(
                update={
                    "code": IN_CODE.sub(swap, turn.code),
                    "observation": names.get(turn.observation.strip(), turn.observation),
                }
            )
            for turn in demonstration.turns
        )
        instruction = IN_INSTRUCTION.sub(swap, demonstration.instruction)
        return demonstration.model_copy(update={"instruction": instruction, "turns": turns})
