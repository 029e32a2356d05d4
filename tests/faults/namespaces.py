"""Two network namespaces as two machines, joined by one cable that can be pulled. Linux, root.

A pulled cable drops what is sent: no FIN, no reset, nobody is told.
"""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

LEARNER_ADDRESS, ACTOR_ADDRESS = "10.0.0.1", "10.0.0.2"


class Cable:
    """Between the namespaces `learner` and `actor`; each end has its machine's address."""

    def __init__(self) -> None:
        mark = f"{os.getpid() % 100_000:05d}{secrets.token_hex(2)}"
        self.learner, self.actor = f"loop-l{mark}", f"loop-a{mark}"
        self._ends = {self.learner: f"vl{mark}", self.actor: f"va{mark}"}

    def lay(self) -> None:
        for machine in (self.learner, self.actor):
            run("ip", "netns", "add", machine)
        near, far = self._ends.values()
        there = ("peer", "name", far, "netns", self.actor)
        run("ip", "link", "add", near, "netns", self.learner, "type", "veth", *there)
        for (machine, end), address in zip(self._ends.items(), (LEARNER_ADDRESS, ACTOR_ADDRESS), strict=True):
            run("ip", "-n", machine, "address", "add", f"{address}/24", "dev", end)
            for device in ("lo", end):
                run("ip", "-n", machine, "link", "set", device, "up")

    def pull(self) -> None:
        run("ip", "-n", self.actor, "link", "set", self._ends[self.actor], "down")

    def plug_in(self) -> None:
        run("ip", "-n", self.actor, "link", "set", self._ends[self.actor], "up")

    def on(self, machine: str) -> list[str]:
        """What starts a process on a machine."""
        return ["ip", "netns", "exec", machine]

    def remove(self) -> None:
        """The cable goes with the machines."""
        for machine in (self.learner, self.actor):
            subprocess.run(["ip", "netns", "delete", machine], capture_output=True, check=False)


@contextmanager
def two_machines() -> Iterator[Cable]:
    """Both machines, gone afterwards; skips the test where they cannot be had."""
    import pytest

    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    cable = Cable()
    try:
        try:
            cable.lay()
        except (OSError, subprocess.CalledProcessError) as error:
            told = getattr(error, "stderr", "") or str(error)
            pytest.skip(f"network namespaces cannot be made here: {told.strip()}")
        yield cable
    finally:
        cable.remove()


def run(*words: str) -> None:
    subprocess.run(words, capture_output=True, text=True, check=True)
