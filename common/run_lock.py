"""One process of a kind a folder: a lock that the kernel drops with its holder, however that ended."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import UsageError

PATIENCE = 5.0  # seconds; those of a learner that was killed need a moment to notice


@contextlib.contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Hold a lock file; wait a little for one who is about to end.

    Raises:
        UsageError: somebody else holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + PATIENCE
    with file.open("w") as stream:
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise UsageError(f"{file.parent}: another {file.stem} is at work on this run; stop it") from None
                time.sleep(0.1)
            else:
                break
        yield
