"""What a policy does in its episodes, counted as in the LOOP paper's analysis of behaviour (its appendix). Pure.

Flows in: trajectories, decoded into the text of their turns. Flows out: `Counts`, which add up over episodes, and the
measures made of them. The paper compares dev episodes before and after training: turns with several code cells became
about 6 times rarer, `show_api_doc` look-ups 1.6 times more frequent, words like "assume" 30 times rarer, dummy values
6 times rarer, giving up after an error 3 times rarer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.code_of_turn import read
from common.messages import Trajectory
from common.prompt_text import STOP

# how a world tells of a cell that was killed
KILLED = re.compile(
    r"Execution timed out after|time of the whole session is over|too much processor time"
    r"|changed more data than there is room for|The process that executes code ended"
)
LOOK_UPS = ("show_api_doc", "show_api_descriptions", "show_app_descriptions")
FAILED = (
    "Execution failed. Traceback:"  # how the engine begins to tell of a cell that raised, was refused or was killed
)
_LOOK_UP = re.compile(rf"\b({'|'.join(LOOK_UPS)})\s*\(")
_ASSUMPTION = re.compile(
    r"\b(assum\w*|presum(?:e|es|ed|ing|ably|ption)\w*|suppos(?:e|ed|edly|ing)|hypothetical\w*)\b", re.IGNORECASE
)
_DUMMY = re.compile(
    r"dummy\w*|placeholder\w*|\b[\w.+-]+@example\.(?:com|org|net)\b|\bexample\.(?:com|org|net)\b"
    r"|\byour_\w+|<your[ _][^>\n]*>|\b(?:foo|bar)@\w+|\bjohn[ ._]?doe\b|\b123-?456-?7890\b|\bxxx+\b",
    re.IGNORECASE,
)
_GIVES_UP = re.compile(r"complete_task\s*\([^)]*status\s*=\s*['\"]fail['\"]")
_STATUS = re.compile(r"Response status code is (\d{3})")
_RAISED = re.compile(r"^((?:[A-Za-z_]\w*\.)*[A-Z]\w*)(?::|$)")


class Decoder(Protocol):
    """What is needed of the prompt (`common.prompt.Prompt`)."""

    def text(self, ids: Sequence[int]) -> str: ...
    def code(self, sampled_ids: Sequence[int]) -> str | None: ...


@dataclass(frozen=True)
class DecodedTurn:
    """One turn as text."""

    text: str  # all that the policy sampled
    code: str | None  # what of it was executed
    observation: str | None  # what the policy saw of it; None: the episode was over


@dataclass(frozen=True)
class DecodedEpisode:
    """One trajectory as text."""

    told: str  # the system message and the task
    turns: tuple[DecodedTurn, ...]
    sampled_tokens: int
    success: bool
    reward: float = 0.0
    killed: bool = False  # its last cell was


def decode(trajectory: Trajectory, decoder: Decoder) -> DecodedEpisode:
    """A trajectory's turns as text."""
    tokens, bounds = trajectory.transcript  # what was shown once is read once
    starts = [*(int(begin) for begin, _ in bounds[1:]), len(tokens)]
    turns = []
    for (begin, end), following in zip(bounds, starts, strict=True):
        sampled, seen = tokens[begin:end].tolist(), tokens[end:following].tolist()
        turns.append(DecodedTurn(decoder.text(sampled), decoder.code(sampled), decoder.text(seen) if seen else None))
    return DecodedEpisode(
        told=decoder.text(tokens[: bounds[0][0]].tolist()),
        turns=tuple(turns),
        sampled_tokens=int(trajectory.sampled.sum()),
        success=trajectory.success,
        reward=trajectory.reward,
        killed="killed" in trajectory.tags,
    )


# ------------------------------------------------------------------------------------------------ one measure each


def code_cells(turn: DecodedTurn) -> int:
    """Cells of code that a turn writes: its fenced blocks, else 1 where it is code as a whole.

    A turn of several cells bets on what the first will print. The paper: such turns became about 6 times rarer.
    """
    blocks = read(turn.text.partition(STOP)[0], fence_needed=False).blocks
    return blocks or int(turn.code is not None)


def look_ups(turn: DecodedTurn) -> Counter[str]:
    """Calls in the executed code that read API documentation, by name; one within a loop counts once.

    The paper: look-ups with show_api_doc became 1.6 times more frequent.
    """
    return Counter(_LOOK_UP.findall(turn.code or ""))


def failure(turn: DecodedTurn) -> str | None:
    """The kind of a failed execution, None where it did not fail or nobody saw what came of it.

    `API 401` for an app's refusal by its status, the exception's name (`NameError`) for what code raised, `syntax`,
    `refused` for what the world forbids, `killed` for a limit, `other` where a cut hides the traceback's end.
    """
    _, failed, told = (turn.observation or "").partition(FAILED)
    if not failed:
        return None
    if status := _STATUS.search(told):
        return f"API {status[1]}"
    if "Syntax error in line" in told:
        return "syntax"
    if KILLED.search(told):
        return "killed"
    if "is not allowed" in told:
        return "refused"
    raised = [found[1] for line in told.split(STOP)[0].splitlines() if (found := _RAISED.match(line.strip()))]
    return raised[-1].rpartition(".")[2] if raised else "other"


def assumption_words(turn: DecodedTurn) -> int:
    """Words of assumption in what a turn says: assume, assuming, presumably, supposedly and the like.

    Whoever assumes has not looked. The paper: about 30 times rarer.
    """
    return len(_ASSUMPTION.findall(turn.text))


def dummy_values(turn: DecodedTurn, known: str) -> int:
    """Made-up values in what a turn says (dummy, placeholder, example.com, your_password, ...) that are not in `known`,
    all that the policy was told before.

    The paper: about 6 times rarer.
    """
    return sum(1 for found in _DUMMY.finditer(turn.text) if found[0].lower() not in known)


def gave_up(episode: DecodedEpisode) -> bool:
    """Whether, right after a failed execution, the next turn declared the task failed or held no code.

    The paper: giving up after an error became about 3 times rarer.
    """
    pairs = zip(episode.turns, episode.turns[1:], strict=False)
    return any(failure(one) and (after.code is None or _GIVES_UP.search(after.code)) for one, after in pairs)


# ------------------------------------------------------------------------------------------------ in sum


@dataclass
class Counts:
    """What was counted over episodes; counts of two sets of episodes add up to those of both."""

    episodes: int = 0
    successes: int = 0
    reward: float = 0.0
    turns: int = 0
    sampled_tokens: int = 0
    cells: int = 0
    multi_cell_turns: int = 0
    no_code_turns: int = 0
    look_ups: Counter[str] = field(default_factory=Counter)  # by name
    seen_turns: int = 0  # whose outcome the policy saw, or that were killed
    failures: Counter[str] = field(default_factory=Counter)  # by kind
    failing_episodes: int = 0  # with a failed execution
    gave_up: int = 0  # of them
    assumption_words: int = 0
    dummy_values: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def measures(self) -> dict[str, float | None]:
        """The measures by name, in the order of a table; None where there was nothing to measure them on."""

        def share(part: float, whole: float) -> float | None:
            return part / whole if whole else None

        return {
            "tgc": share(self.successes, self.episodes),
            "mean_reward": share(self.reward, self.episodes),
            "turns": share(self.turns, self.episodes),
            "sampled_tokens": share(self.sampled_tokens, self.episodes),
            "cells_per_turn": share(self.cells, self.turns),
            "multi_cell_turns": share(self.multi_cell_turns, self.turns),
            "no_code_turns": share(self.no_code_turns, self.turns),
            **{name: share(self.look_ups[name], self.episodes) for name in LOOK_UPS},
            "failed_turns": share(self.failures.total(), self.seen_turns),
            "assumption_words": share(self.assumption_words, self.episodes),
            "dummy_values": share(self.dummy_values, self.episodes),
            "gave_up": share(self.gave_up, self.failing_episodes),
        }

    def facts(self) -> dict[str, Any]:
        """As one JSON object: measures, and failures by kind as shares of the turns whose outcome was seen."""
        kinds = {name: round(count / self.seen_turns, 6) for name, count in self.failures.most_common()}
        measures = {name: None if value is None else round(value, 6) for name, value in self.measures().items()}
        return {"episodes": self.episodes, **measures, "failures": kinds}


def count(episode: DecodedEpisode) -> Counts:
    """What one episode adds."""
    counts = Counts(episodes=1, successes=int(episode.success), reward=episode.reward, turns=len(episode.turns))
    counts.sampled_tokens = episode.sampled_tokens
    known = episode.told.lower()
    for number, turn in enumerate(episode.turns):
        cells = code_cells(turn)
        counts.cells += cells
        counts.multi_cell_turns += cells > 1
        counts.no_code_turns += turn.code is None
        counts.look_ups += look_ups(turn)
        killed = episode.killed and number == len(episode.turns) - 1
        counts.seen_turns += turn.observation is not None or killed
        kind = "killed" if killed else failure(turn)
        counts.failures.update([kind] if kind is not None else [])
        counts.assumption_words += assumption_words(turn)
        counts.dummy_values += dummy_values(turn, known)
        known += (turn.observation or "").lower()
    counts.failing_episodes = int(bool(counts.failures))
    counts.gave_up = int(gave_up(episode))
    return counts


def count_all(trajectories: Iterable[Trajectory], decoder: Decoder) -> Counts:
    """What a set of trajectories adds up to."""
    return sum((count(decode(trajectory, decoder)) for trajectory in trajectories), Counts())
