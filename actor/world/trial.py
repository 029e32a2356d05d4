"""For `loop doctor`: puts the guards on as a host of worlds does, and attacks each. Standard library only.

Runs in a process of its own, as `host.py`: what a process gave up it does not get back. Flows in: a scratch folder and
limits. Flows out: one line of JSON, the guards that are on and those of them that held.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from actor.world import probe, sandbox


def main(descriptor: int, settings: dict[str, Any]) -> None:
    """Says to `descriptor` what held. Settings: `scratch`, `memory_bytes`, `cpu_seconds`."""
    os.umask(0o022)  # the folders of the private root are for everybody to pass
    limits = sandbox.Limits(sandbox.address_space() + settings["memory_bytes"], settings["cpu_seconds"])
    sandbox.adopt_orphans()
    outside = probe.Outside()
    guards = sandbox.enter(sandbox.own_code(), Path(settings["scratch"]))
    held = probe.held(guards, outside, "/", limits)
    os.write(descriptor, json.dumps({"on": guards, "held": held}).encode())
