"""The data root of a world: made from nothing below the cache folder, once per hash of generator and arguments.

Flows in: `BuildArguments`. Flows out: a folder with `full/data` (with the tests; for the grader, mode 0700) and
`episode/data` (the same without any ground truth; what an episode's process sees).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from actor.world import relay
from actor.world.install import APPWORLD_VERSION, appworld_python
from common.cache import cache_folder, locked
from common.config import Section
from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)

MARKER = "world.json"
HERE = Path(__file__).parent
GENERATOR = ("catalogue.py", "generate.py", "people.py", "plan.py", "task_files.py", "scenarios/*.py")


class BuildArguments(Section):
    """What a world is made of. With the generator's sources it decides the world's name in the cache."""

    seed: int = Field(default=1, ge=0, description="every random choice comes from it", examples=[1])
    train: int = Field(default=12, ge=1, le=500, description="train tasks per scenario, count", examples=[12])
    dev: int = Field(default=2, ge=1, le=100, description="dev tasks per scenario, count", examples=[2])
    test: int = Field(
        default=4, ge=1, le=100, description="test_normal tasks per scenario of train, count", examples=[4]
    )
    unseen: int = Field(
        default=6, ge=1, le=100, description="test_normal tasks per scenario that train lacks, count", examples=[6]
    )
    challenge: int = Field(
        default=6, ge=1, le=100, description="test_challenge tasks per scenario of its own, count", examples=[6]
    )

    def sizes(self) -> dict[str, int]:
        """Tasks per scenario by data set."""
        seen = {"train": self.train, "dev": self.dev, "test_normal": self.test}
        return {**seen, "unseen": self.unseen, "test_challenge": self.challenge}


def world_hash(arguments: BuildArguments) -> str:
    """Sixteen hexadecimal digits over the generator's sources, AppWorld's version and the arguments."""
    digest = hashlib.sha256(APPWORLD_VERSION.encode())
    for pattern in GENERATOR:
        for source in sorted(HERE.glob(pattern)):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    digest.update(arguments.model_dump_json().encode())
    return digest.hexdigest()[:16]


def check_world(root: Path) -> Path:
    """`root`, absolute. UsageError when it is not a data root that was built to its end."""
    root = root.expanduser().absolute()
    missing = [part for part in (MARKER, "full/data", "episode/data") if not (root / part).exists()]
    if missing:
        raise UsageError(
            f"{root} is not a data root of a world: {missing[0]} is missing; make one with 'loop world build'"
        )
    return root


def build(arguments: BuildArguments) -> Path:
    """The world's folder in the cache; made and verified when it is not there yet (about a minute on two cores)."""
    worlds = cache_folder() / "worlds"
    folder = worlds / world_hash(arguments)
    if "memory" in str(folder):
        raise UsageError(
            f"the cache folder's path must not contain the word 'memory': {worlds}; set LOOP_CACHE to another"
        )
    if (folder / MARKER).exists():
        return folder
    python = appworld_python()
    with locked(worlds / f"{folder.name}.lock", "the world is being built"):
        if (folder / MARKER).exists():
            return folder
        for left in worlds.glob(f"{folder.name}*"):
            if left.is_dir():  # of a build that was killed
                shutil.rmtree(left)
        with tempfile.TemporaryDirectory(prefix=f"{folder.name}.", dir=worlds) as making:
            made = Path(making) / "world"
            made.mkdir()
            summary = _generate(python, made, arguments)
            _separate(made)
            (made / MARKER).write_text(json.dumps({"arguments": arguments.model_dump(), **summary}, indent=1) + "\n")
            made.rename(folder)
    log.info("world_built", root=str(folder), **summary)
    return folder


def _generate(python: Path, folder: Path, arguments: BuildArguments) -> dict[str, Any]:
    request = json.dumps({"seed": arguments.seed, "sizes": arguments.sizes(), "workers": relay.workers()})
    return relay.run_module(python, "actor.world.generate", [str(folder), request], "the world could not be built")


def _separate(folder: Path) -> None:
    """Makes `episode` beside `full`: hard links to everything but the ground truth."""
    full, episode = folder / "full" / "data", folder / "episode" / "data"

    def without_truth(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name == "ground_truth"]

    shutil.copytree(full, episode, ignore=without_truth, copy_function=os.link)
    shutil.rmtree(folder / "scratch", ignore_errors=True)
    (folder / "full").chmod(0o700)
