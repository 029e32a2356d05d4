"""For `loop doctor`: AppWorld's virtualenv, the data root, and the confinement of model-written code, really tried.

Nothing is installed or built here: that is for the first actor, or `loop world install` and `loop world build`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from itertools import islice
from pathlib import Path

from actor.world.build import MARKER, BuildArguments, world_hash
from actor.world.check import list_problems, root_problems
from actor.world.config import WorldConfig
from actor.world.guards import REQUIRED, missing_guards
from actor.world.install import APPWORLD_VERSION, installed_python
from actor.world.process import BOOT, PACKAGE
from actor.world.root import check_root, choose_root, dataset_ids, is_official
from actor.world_protocol import provider_of
from common.cache import cache_folder
from common.doctor_python import ask, run
from common.errors import UsageError
from common.finding import Check, Finding, error, ok, warning

IMPORT_SECONDS, TRIAL_SECONDS = 120.0, 60.0
ENVIRONMENT = {"LANG": "C.UTF-8", "PATH": os.defpath, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
IMPORT = """
import json, importlib.metadata as metadata
import appworld
print(json.dumps({"appworld": metadata.version("appworld")}))
"""
SHOWN = 3  # problems that a line names


def checks(world: WorldConfig) -> list[Check]:
    """For the worlds of this section: AppWorld's, or another provider's."""
    if world.provider != WorldConfig().provider:
        return [Check("worlds", lambda: provider(world))]
    return [
        Check("AppWorld", appworld, "its import takes seconds"),
        Check("AppWorld's data", lambda: data(world)),
        Check("confinement", lambda: confinement(world), "each guard is attacked"),
    ]


def provider(world: WorldConfig) -> Finding:
    """Whether another provider of worlds is there; it is not called."""
    try:
        provider_of(world.provider)
    except UsageError as problem:
        return error(str(problem), "set world.provider to module:name, and PYTHONPATH so that it is found")
    return ok(f"{world.provider} can be imported")


def appworld() -> Finding:
    """Whether its virtualenv is there, whole, and its python imports it."""
    python = installed_python()
    folder = cache_folder() / f"appworld-{APPWORLD_VERSION}"
    if python is None:
        text = "half installed" if folder.exists() else "not installed yet"
        return warning(f"{text} ({folder})", "`loop world install` (25 s, 250 MB, from the package index)")
    answer = ask(IMPORT, IMPORT_SECONDS, python, {**ENVIRONMENT, "APPWORLD_ROOT": str(folder / "files")})
    anew = f"remove {folder} and run `loop world install`"
    if answer.said is None:
        return error(f"{python} does not import it: {answer.failure}", anew)
    if answer.said["appworld"] != APPWORLD_VERSION:
        return error(f"{folder} holds version {answer.said['appworld']}, wanted is {APPWORLD_VERSION}", anew)
    return ok(f"{APPWORLD_VERSION} in {folder}")


def data(world: WorldConfig) -> Finding:
    """The data root that an actor would choose: what all tasks share, and the lists."""
    if world.root is None and not os.environ.get("APPWORLD_ROOT"):
        root = cache_folder() / "worlds" / world_hash(BuildArguments())
        if not (root / MARKER).exists():
            remedy = "`loop world build` (3 to 6 minutes on two cores); the first actor does it otherwise"
            return warning(f"none named, and no world built in {root.parent}", remedy)
    try:
        root = choose_root(world.root)
        check_root(root)
        problems = list(islice((*root_problems(root), *list_problems(root)), SHOWN))
        train = len(dataset_ids(root, "train"))
    except UsageError as problem:
        return error(str(problem), "`loop world build`, or name another with --world.root")
    if problems:
        return error("; ".join(problems), f"`loop world check --root {root}` names everything that is wrong")
    kind = "AppWorld's own data" if is_official(root) else "a built world"
    return ok(f"{kind}, {train} train tasks: {root}")


def confinement(world: WorldConfig) -> Finding:
    """Puts the guards on in a process of its own, as a host of worlds does, and attacks each."""
    with tempfile.TemporaryDirectory(prefix="loop-doctor-") as scratch:
        Path(scratch).chmod(0o711)  # as the host's
        settings = {
            "scratch": scratch,
            "memory_bytes": world.memory_megabytes << 20,
            "cpu_seconds": int(world.episode_seconds) + 1,
        }
        python = str(installed_python() or sys.executable)
        words = [BOOT, str(PACKAGE), "actor.world.trial", "1", json.dumps(settings)]
        said, failure = run([python, "-P", "-s", "-c", *words], TRIAL_SECONDS, ENVIRONMENT)
    if failure:
        return error(f"the trial broke down: {failure}", "run on Linux 5.13 or later, as root or with user namespaces")
    held = json.loads(said.strip().rpartition("\n")[2])["held"]
    missing = missing_guards(held)
    if not missing:
        return ok(f"held against an attack each: {', '.join(held)}")
    text = f"model-written code is not kept in: without {', '.join(missing)}"
    remedy = "; ".join(f"{guard} takes {REQUIRED[guard]}" for guard in missing)
    return (error if world.require_confinement else warning)(text, remedy)
