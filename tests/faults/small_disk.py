"""A disk of a few megabytes that a test fills and empties: a tmpfs, mounted on a folder."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

BALLAST = "ballast"


class SmallDisk:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """Until it takes not a byte more, whatever frees some meanwhile."""
        with (self.folder / BALLAST).open("ab", buffering=0) as stream, contextlib.suppress(OSError):
            while True:
                stream.write(bytes(1 << 12))

    def empty(self) -> None:
        """Remove what filled it."""
        (self.folder / BALLAST).unlink()


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mounted on `folder` until the end, however that comes. Skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk (tmpfs) needs root")
    folder.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        pytest.skip(f"a small disk (tmpfs) cannot be mounted here: {made.stderr.strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
