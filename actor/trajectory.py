"""Stage 3, Episode -> Trajectory: an episode's lists as the arrays that cross the link. Pure."""

from __future__ import annotations

import numpy as np

from actor.episode import Episode
from common.messages import Trajectory

MOST_FAILURES = 1000
LONGEST_FAILURE = 500  # characters of one requirement that failed


def trajectory_of(episode: Episode, actor: str) -> Trajectory:
    """The trajectory of a graded episode. T tokens, N turns, C contexts.

    Raises:
        ValueError: the episode contradicts itself, which is a defect here and not in the policy.
    """
    count, repeats = len(episode.ids), list(episode.repeats)
    if repeats and episode.turns and repeats[-1][0] >= episode.turns[-1].end:
        count = repeats.pop()[0]  # nothing was sampled in its last context
    sampled = np.zeros(count, np.uint8)
    log_probs = np.zeros(count, np.float32)
    versions = np.full(count, -1, np.int32)
    for turn in episode.turns:
        sampled[turn.begin : turn.end] = 1
        log_probs[turn.begin : turn.end] = turn.log_probs
        versions[turn.begin : turn.end] = turn.versions
    bounds = np.array([(turn.begin, turn.end) for turn in episode.turns], np.int32).reshape(-1, 2)
    return Trajectory(
        trajectory_id=episode.lease.lease_id,
        lease=episode.lease,
        actor=actor,
        token_bytes=np.asarray(episode.ids[:count], "<i4").tobytes(),
        sampled_bytes=sampled.tobytes(),
        log_prob_bytes=log_probs.astype("<f4").tobytes(),
        version_bytes=versions.astype("<i4").tobytes(),
        turn_bytes=bounds.astype("<i4").tobytes(),
        context_bytes=np.array(repeats, "<i4").tobytes(),
        reward=float(episode.reward),
        success=bool(episode.success),
        failures=tuple(failure[:LONGEST_FAILURE] for failure in episode.failures[:MOST_FAILURES]),
        tags=tuple(episode.tags),
        started_at=episode.started_at,
        seconds=episode.seconds,
        engine_seconds=episode.engine_seconds,
        world_seconds=episode.world_seconds,
    )
