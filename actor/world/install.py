"""AppWorld's virtualenv below the cache folder: pinned, made once, finished when an earlier try was interrupted.

Flows in: nothing but the network. Flows out: the path of its python. AppWorld needs pydantic 1 and the main virtualenv
pydantic 2, so the two never share one.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.cache import cache_folder, locked
from common.errors import RunError, UsageError
from common.log import get_logger

log = get_logger(__name__)

APPWORLD_VERSION = "0.1.3.post1"
MARKER = "installed.json"  # written last: its presence means that everything before it was done
Progress = Callable[[str], None]


def appworld_python(progress: Progress | None = None) -> Path:
    """The python of AppWorld's virtualenv, installed first when it is not there (25 s and 250 MB).

    UsageError: it is not there and the package index cannot be reached. RunError: the installation failed.
    """
    folder = cache_folder() / f"appworld-{APPWORLD_VERSION}"
    python = folder / "venv" / "bin" / "python"
    if _done(folder):
        return python
    with locked(folder.with_name(f"{folder.name}.lock"), "AppWorld is being installed"):
        if not _done(folder):
            _install(folder, python, progress or _log_step)
    return python


def installed_python() -> Path | None:
    """The python of AppWorld's virtualenv where it is there, whole; nothing is installed."""
    folder = cache_folder() / f"appworld-{APPWORLD_VERSION}"
    return folder / "venv" / "bin" / "python" if _done(folder) else None


def _done(folder: Path) -> bool:
    return (folder / MARKER).exists() and (folder / "venv" / "bin" / "python").exists()


def _log_step(step: str) -> None:
    log.info("appworld_install", step=step)


def _install(folder: Path, python: Path, progress: Progress) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted try leaves a folder without its marker
    folder.mkdir(parents=True)
    progress(f"making a virtualenv in {folder}")
    _run([sys.executable, "-m", "venv", str(folder / "venv")], folder, "the virtualenv could not be made")
    progress(f"installing appworld {APPWORLD_VERSION} and what it needs (about 20 s)")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--progress-bar", "off"]
    _run([*pip, f"appworld=={APPWORLD_VERSION}"], folder, "pip could not install AppWorld")
    progress("unpacking AppWorld's apps")
    _run([str(python), "-m", "appworld.cli", "install"], folder, "'appworld install' failed")
    versions = {"appworld": APPWORLD_VERSION, "python": sys.version.split()[0]}
    temporary = folder / f"{MARKER}.tmp"
    temporary.write_text(json.dumps(versions) + "\n")
    temporary.replace(folder / MARKER)
    progress("done")


def _run(command: list[str], folder: Path, failure: str) -> None:
    """Runs one step quietly. AppWorld's own files go below `folder`, none into the home folder."""
    environment = {**os.environ, "APPWORLD_CACHE": str(folder / "files"), "APPWORLD_ROOT": str(folder / "files")}
    environment.pop("PYTHONPATH", None)
    with tempfile.TemporaryFile("w+") as output:
        finished = subprocess.run(
            command,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            check=False,
        )
        if finished.returncode == 0:
            return
        output.seek(0)
        lines = [line.strip() for line in output.read().splitlines() if line.strip()]
    if any(
        sign in line for line in lines for sign in ("No matching distribution", "connection", "Could not fetch URL")
    ):
        raise UsageError(
            "AppWorld is not installed and the package index cannot be reached: connect this machine to a network, "
            "or copy the cache folder of one that has it, and run 'loop world install'"
        )
    raise RunError(f"{failure}: {' | '.join(lines[-5:])[-1500:]}")
