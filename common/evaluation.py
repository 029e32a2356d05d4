"""What an evaluation amounts to: TGC, SGC and mean reward with intervals, by difficulty and scenario. Pure.

TGC is the share of tasks whose tests all pass; SGC the share of scenarios all of whose tasks pass (AppWorld's terms; a
scenario is a task id up to its underscore). With several rollouts of a task both are means over rollouts.

Two intervals of 95 % stand beside each share, for two questions:

    interval   what TGC and SGC would be on other scenarios of this kind. The tasks of a scenario are variations of one
               instruction and pass or fail together, so they are no independent draws: whole scenarios are drawn anew,
               with replacement, and the 2.5 and 97.5 percentiles of the share are taken (cluster bootstrap; Davison and
               Hinkley, Bootstrap Methods, 3.8). The draws are seeded: the same episodes give the same interval.
    wilson     the plain look at k of n as independent trials (Wilson 1927): too narrow for TGC, since tasks are not
               independent, but it says something where the other cannot: of few scenarios, of none or all solved.

Neither holds the chance in sampling itself (temperature above 0, batches): more rollouts average over that.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

RESAMPLES = 10_000
RESAMPLED_TOGETHER = 1_000  # rows of an index matrix [R, scenarios]
QUANTILE = 1.959963984540054  # of the normal distribution at 97.5 %
LABEL = re.compile(r"(before|after)\.t([0-9.e+-]+?)(?:\.([A-Za-z].*))?")
LIST_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,59}")  # of a task list, in labels


@dataclass(frozen=True)
class Scored:
    """One evaluated episode."""

    task_id: str
    member: int  # which rollout of its task, from 0
    reward: float
    success: bool
    version: int  # oldest that sampled a token
    newest_version: int = -1  # newest that did; below `version`: not known, it is taken to be the same
    difficulty: int | None = None  # 1 to 3, where it is known


def label_of(when: str, temperature: float, tasks: str = "") -> str:
    """What an evaluation is called: "before.t0", or "after.t0.test_challenge" of a list beside the main one."""
    return f"{when}.t{temperature:g}" + (f".{tasks}" if tasks else "")


def parts_of(label: str) -> tuple[str, str, str] | None:
    """The reverse: "before" or "after", the temperature, the list beside the main one ("": the main one)."""
    found = LABEL.fullmatch(label)
    return None if found is None else (found[1], found[2], found[3] or "")


def scenario_of(task_id: str) -> str:
    """Tasks of a scenario share their id up to the underscore."""
    return task_id.partition("_")[0]


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures of an evaluation's episodes; shares, rewards and intervals [low, high] from 0 to 1, the rest counts.

    `policy_version` and `newest_version`: the oldest and the newest that sampled any token. What was never rolled out
    is not in here: the caller says how many tasks were lost.
    """
    by_difficulty: dict[int, list[Scored]] = defaultdict(list)
    for episode in scored:
        if episode.difficulty is not None:
            by_difficulty[episode.difficulty].append(episode)
    result = {
        "policy_version": min((episode.version for episode in scored), default=-1),
        "newest_version": max((max(episode.version, episode.newest_version) for episode in scored), default=-1),
        **_figures(scored),
        "by_scenario": {name: _of_scenario(episodes) for name, episodes in sorted(_by_scenario(scored).items())},
    }
    if by_difficulty:
        result["by_difficulty"] = {str(level): _figures(episodes) for level, episodes in sorted(by_difficulty.items())}
    return result


def _figures(scored: Sequence[Scored]) -> dict[str, Any]:
    """Of any set of episodes: counts, shares, and the intervals of the shares."""
    scenarios = list(_by_scenario(scored).values())
    solved = [_solved_share(episodes) for episodes in scenarios]
    passed = [_passed_shares(episodes) for episodes in scenarios]
    tasks = sum(map(len, passed))
    tgc = sum(map(sum, passed)) / tasks if tasks else 0.0
    sgc = fmean(solved) if solved else 0.0
    return {
        "tasks": tasks,
        "scenarios": len(scenarios),
        "episodes": len(scored),
        "tgc": round(tgc, 6),
        "sgc": round(sgc, 6),
        "mean_reward": _mean([episode.reward for episode in scored]),
        "tgc_interval": resampled([sum(shares) for shares in passed], [len(shares) for shares in passed]),
        "sgc_interval": resampled(solved, [1] * len(solved)),
        "tgc_wilson": wilson(tgc, tasks),
        "sgc_wilson": wilson(sgc, len(scenarios)),
    }


def _of_scenario(episodes: Sequence[Scored]) -> dict[str, Any]:
    shares = _passed_shares(episodes)
    return {
        "tgc": _mean(shares),
        "sgc": round(_solved_share(episodes), 6),
        "mean_reward": _mean([episode.reward for episode in episodes]),
        "tasks": len(shares),
        "tgc_wilson": wilson(fmean(shares), len(shares)),
    }


def _by_scenario(scored: Sequence[Scored]) -> Mapping[str, list[Scored]]:
    found: dict[str, list[Scored]] = defaultdict(list)
    for episode in scored:
        found[scenario_of(episode.task_id)].append(episode)
    return found


def _passed_shares(episodes: Sequence[Scored]) -> list[float]:
    """Of each task the share of its rollouts that passed [tasks]: one with a lost rollout counts as much as others."""
    by_task: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        by_task[episode.task_id].append(episode.success)
    return [fmean(successes) for successes in by_task.values()]


def _solved_share(episodes: Sequence[Scored]) -> float:
    """Of a scenario's rollouts, the share in which every task passed."""
    by_rollout: dict[int, list[bool]] = defaultdict(list)
    for episode in episodes:
        by_rollout[episode.member].append(episode.success)
    return fmean(float(all(successes)) for successes in by_rollout.values())


def resampled(sums: Sequence[float], counts: Sequence[int], *, seed: int = 0) -> list[float]:
    """The 95 % interval of sum(sums) / sum(counts) when whole scenarios are drawn anew. `sums`, `counts`: [scenarios].

    [0, 1] of no scenario: nothing is known.
    """
    import numpy as np  # noqa: PLC0415 - the commands that only read labels answer --help without it

    if not sums:
        return [0.0, 1.0]
    of, size = np.asarray(sums, float), np.asarray(counts, float)
    generator = np.random.default_rng(seed)
    shares = []
    for _ in range(RESAMPLES // RESAMPLED_TOGETHER):
        drawn = generator.integers(len(of), size=(RESAMPLED_TOGETHER, len(of)))
        shares.append(of[drawn].sum(1) / size[drawn].sum(1))
    low, high = np.percentile(np.concatenate(shares), (2.5, 97.5))
    return [round(float(low), 6), round(float(high), 6)]


def wilson(share: float, count: int) -> list[float]:
    """Wilson's score interval at 95 % of a share of `count` independent trials; [0, 1] of none."""
    if not count:
        return [0.0, 1.0]
    square = QUANTILE**2 / count
    middle = (share + square / 2) / (1 + square)
    half = QUANTILE / (1 + square) * math.sqrt(share * (1 - share) / count + square / (4 * count))
    return [round(max(0.0, middle - half), 6), round(min(1.0, middle + half), 6)]


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), 6) if values else 0.0
