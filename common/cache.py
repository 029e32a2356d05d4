"""The cache folder: what can be made again, but takes long. And a lock over processes, so that it is made once."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.log import get_logger

log = get_logger(__name__)


def cache_folder() -> Path:
    """`$LOOP_CACHE`, else `$XDG_CACHE_HOME/loop`, else `~/.cache/loop`; absolute, not made."""
    if own := os.environ.get("LOOP_CACHE"):
        return Path(own).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache").expanduser().absolute() / "loop"


@contextmanager
def locked(path: Path, purpose: str) -> Iterator[None]:
    """Holds the lock file `path`, made when missing; while another process holds it, waits and says for whom.

    The kernel frees the lock when its holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            log.info(
                "waiting_for_lock", purpose=purpose, held_by_process=file.read().strip() or "unknown", lock=str(path)
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
