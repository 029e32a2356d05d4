"""A disk that takes no more ends the trainer with one line; a resume goes on from what was saved before."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from common.errors import RunError


@contextlib.contextmanager
def saving(folder: Path) -> Iterator[None]:
    """Around what writes below `folder`. Raises RunError: the disk takes no more, or fails."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise RunError(f"{folder}: cannot be written: {reason}; make room on its disk, then --resume") from error
