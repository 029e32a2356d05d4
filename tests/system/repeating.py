"""Samples turns of several episodes, one at a time, with a reload at a fixed point: `repeating.py V0 V1 SEED`.

Prints one JSON line: by mode of reloading and turn the ids, the log-probs to the last bit, the versions. For
test_repeats.py, which runs it in fresh processes.
"""

import asyncio
import json
import sys
from pathlib import Path

from actor.config import EngineConfig
from actor.policy import Policy

MODES = ("in_flight", "between_turns", "between_episodes")
EPISODES, TURNS, TURN_TOKENS = 4, 3, 20
STOP = 0  # of tests/actor/tiny_model.py
CONFIG = EngineConfig(dtype="float32", context_tokens=256, kv_cache_megabytes=32)


async def reload(policy, folder, version):
    async with policy.held():
        await policy.load_full(folder, version)
        await policy.score([3, 4, 5, 6], version)  # as the probe does, which must not disturb what follows
        await policy.use(version)


async def play(folders, seed):
    """All turns by mode. The reload comes amid the second episode, or before it where the mode pins episodes."""
    policy = await Policy.start(folders[0], 0, CONFIG, mode=MODES[0], slots=1, seed=seed, stop_ids=[STOP])
    turns = {}
    try:
        await policy.use(0)
        for number, policy.mode in enumerate(MODES):
            turns[policy.mode] = await episodes(policy, folders[1 - number % 2], number + 1)
    finally:
        policy.stop()
    return turns


async def episodes(policy, folder, version):
    turns = []
    for episode in range(EPISODES):
        if policy.mode == "between_episodes" and episode == 1:
            await reload(policy, folder, version)
        ids = [10 + episode, 7, 8, 9]
        async with policy.episode() as pinned:
            for turn in range(TURNS):
                if policy.mode != "between_episodes" and (episode, turn) == (1, 1):
                    await reload(policy, folder, version)
                sampled = await policy.generate(ids, temperature=1.0, max_tokens=TURN_TOKENS, pinned=pinned)
                turns.append((sampled.ids, [one.hex() for one in sampled.log_probs], sampled.versions))
                ids = [*ids, *sampled.ids, 20, 21]
    return turns


if __name__ == "__main__":
    *folders, seed = sys.argv[1:]
    print(json.dumps(asyncio.run(play([Path(folder) for folder in folders], int(seed)))))
