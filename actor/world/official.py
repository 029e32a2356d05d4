"""AppWorld's own data as a data root of ours: a view below the cache folder, made once, renewed when the data change.

Flows in: a folder that holds `data/` as AppWorld unpacks it. Flows out: a folder with `full/data` (mode 0700) and
`episode/data` (the same without any ground truth). Files are hard links where the file system is the same and copies
elsewhere; symbolic links would point out of the root folder that episodes see. Nothing is written to the data.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from actor.world.install import APPWORLD_VERSION
from common.cache import cache_folder, locked
from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)

MARKER = "world.json"  # as a built world has it; written last
PARTS = ("api_docs", "base_dbs", "datasets", "tasks")
OF_A_TASK = ("dbs", "specs.json")  # what an episode gets of a task's folder
OTHERS_MAY_READ = 0o004


def how_to_get() -> str:
    """What to do for AppWorld's own data, for the end of an error message."""
    command = cache_folder() / f"appworld-{APPWORLD_VERSION}" / "venv" / "bin" / "appworld"
    return (
        f"AppWorld's own data are had with 'loop world install' and then '{command} download data --root FOLDER', "
        "where FOLDER is what --world.root or APPWORLD_ROOT names; by their licence nothing of what is unpacked "
        "may be passed on"
    )


def holds_data(folder: Path) -> bool:
    """Whether a folder is one that AppWorld takes for its root."""
    return (folder / "data").is_dir()


def view_of(folder: Path) -> Path:
    """The data root for AppWorld's own data in `folder`; made when it is not there, or not of these data any more.

    An actor that still works on a view of what the data were fails its episodes and is to be started anew.

    Raises:
        UsageError: a part of the data is missing; with how to get them.
    """
    data = (folder / "data").resolve()
    for part in PARTS:
        if not (data / part).is_dir():
            raise UsageError(f"{folder} is not AppWorld's own data: data/{part} is missing; {how_to_get()}")
    views = cache_folder() / "official"
    if "memory" in str(views):
        raise UsageError(
            f"the engine takes a path with 'memory' in it for no path: set LOOP_CACHE to other than {views}"
        )
    name = hashlib.sha256(str(data).encode()).hexdigest()[:12]
    files = list(_files(data))
    view = views / f"{name}-{_identity(data, files)}"
    if (view / MARKER).exists():
        return view
    with locked(views / f"{name}.lock", f"the view of {folder} is being made"):
        if not (view / MARKER).exists():
            for left in views.glob(f"{name}-*"):
                shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=views) as making:
                _make(data, files, Path(making) / "view")
                (Path(making) / "view").rename(view)
            log.info("official_data_viewed", data=str(data), root=str(view), files=len(files))
    return view


def _files(data: Path) -> Iterator[str]:
    """What a root needs of the data, relative paths in order: not the API docs' other forms, nor files beside."""
    for part in ("api_docs/standard", "base_dbs", "datasets", "tasks"):
        for folder, folders, names in os.walk(data / part):
            folders.sort()
            yield from (str((Path(folder) / name).relative_to(data)) for name in sorted(names))
    yield from sorted(path.name for path in data.iterdir() if path.is_file())


def _identity(data: Path, files: list[str]) -> str:
    """Sixteen hexadecimal digits over the files' names, sizes and times of change."""
    digest = hashlib.sha256()
    for name in files:
        found = os.stat(data / name)  # noqa: PTH116 - Path.stat costs twice as much, eighteen thousand times
        digest.update(f"{name}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _make(data: Path, files: list[str], view: Path) -> None:
    folders: set[Path] = set()
    for name in files:
        seen_by = ("full", "episode") if _is_for_episodes(name) else ("full",)
        source = data / name
        for side in seen_by:
            target = view / side / "data" / name
            if target.parent not in folders:
                target.parent.mkdir(parents=True, exist_ok=True)
                folders.add(target.parent)
            _link(source, target)
            source = target  # a file that had to be copied is copied once
    (view / "full").chmod(0o700)
    facts = {"arguments": None, "data": str(data), "tasks": len(list((view / "episode" / "data" / "tasks").iterdir()))}
    (view / MARKER).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _is_for_episodes(name: str) -> bool:
    """Everything but what lies in a task's folder and is neither its specification nor its databases."""
    part, *rest = name.split("/")
    return part != "tasks" or (len(rest) > 1 and rest[1] in OF_A_TASK)


def _link(source: Path, target: Path) -> None:
    if source.stat().st_mode & OTHERS_MAY_READ:
        try:
            os.link(source.resolve() if source.is_symlink() else source, target)
        except OSError:  # another file system, another's file, a file system without hard links
            pass
        else:
            return
    shutil.copyfile(source, target)
    target.chmod(0o644)  # an episode's process is another user
