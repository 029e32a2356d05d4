"""What an evaluation amounts to: TGC, SGC and mean reward, also by scenario. Pure.

TGC is the share of tasks whose tests all pass; SGC the share of scenarios all of whose tasks pass (AppWorld's terms; a
scenario is a task id up to its underscore). With several rollouts of a task both are means over rollouts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from learner.gateway.ledger import Scored


def summarise(scored: Sequence[Scored]) -> dict[str, Any]:
    """The figures of an evaluation's episodes; shares and rewards from 0 to 1, `tasks` a count."""
    by_scenario: dict[str, list[Scored]] = defaultdict(list)
    for episode in scored:
        by_scenario[scenario_of(episode.task_id)].append(episode)
    return {
        "policy_version": min((episode.version for episode in scored), default=-1),
        "tasks": len({episode.task_id for episode in scored}),
        "episodes": len(scored),
        "tgc": _mean([float(episode.success) for episode in scored]),
        "sgc": _mean([_solved_share(episodes) for episodes in by_scenario.values()]),
        "mean_reward": _mean([episode.reward for episode in scored]),
        "by_scenario": {
            name: {
                "tgc": _mean([float(episode.success) for episode in episodes]),
                "mean_reward": _mean([episode.reward for episode in episodes]),
                "tasks": len({episode.task_id for episode in episodes}),
            }
            for name, episodes in sorted(by_scenario.items())
        },
    }


def scenario_of(task_id: str) -> str:
    """Tasks of a scenario share their id up to the underscore."""
    return task_id.partition("_")[0]


def _solved_share(episodes: Sequence[Scored]) -> float:
    """Of a scenario's rollouts, the share in which every task passed."""
    by_rollout: dict[int, list[bool]] = defaultdict(list)
    for episode in episodes:
        by_rollout[episode.member].append(episode.success)
    return _mean([float(all(successes)) for successes in by_rollout.values()])


def _mean(values: Sequence[float]) -> float:
    return round(fmean(values), 6) if values else 0.0
