"""Noisy demonstrations of train tasks, for the warm start: a data root in, a file of JSON lines out.

One line: {"task_id": "likeSong_3", "scenario": "likeSong", "instruction": "Like the song ...", "supervisor": {...},
"turns": [{"code": "...", "observation": "..."}], "right": every option was the right one, "success": bool or null}.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actor.world import relay
from actor.world.build import check_world
from actor.world.install import appworld_python
from actor.world.root import is_official
from common.errors import UsageError


def demonstrate(root: Path, out: Path, count: int, seed: int, *, graded: bool = False) -> dict[str, Any]:
    """Plays `count` demonstrations in the real engine and writes them to `out`; `success` is null unless graded.

    The same arguments give the same lines. Returns count and right. UsageError: bad root, folder or count.
    """
    if count < 1:
        raise UsageError(f"--count {count}: at least one demonstration must be asked for")
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out {out}: the folder {out.absolute().parent} does not exist; make it first")
    world = check_world(root)
    if is_official(world):
        raise UsageError(
            f"--root {root}: demonstrations are played from the reference solutions of a built world, which AppWorld's "
            "own data do not have; name one that 'loop world build' made"
        )
    request = json.dumps({"count": count, "seed": seed, "workers": relay.workers(), "grade": graded})
    words = [str(world), str(out.absolute()), request]
    found = relay.run_module(appworld_python(), "actor.world.play", words, "the demonstrations could not be played")
    return {"count": found["count"], "right": found["right"], "out": str(out)}
