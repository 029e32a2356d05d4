"""Runs one of the generator's modules in AppWorld's virtualenv and relays its progress to this process's log.

Flows in: a module and its words. Flows out: log events, and the fields of the module's last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.log import get_logger

log = get_logger(__name__)

PROJECT = Path(__file__).parent.parent.parent


def run_module(python: Path, module: str, words: Sequence[str], failure: str) -> dict[str, Any]:
    """Waits for `python -m module words`; the fields of its last line of progress.

    RunError: it failed; the message is `failure` and its own reason.
    """
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(PROJECT),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
    }
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(
            [str(python), "-m", module, *words], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdout is not None
        try:
            for line in process.stdout:
                last = json.loads(line)
                log.info("world_progress", what=last.pop("event"), **last)
            process.wait()
        finally:
            if process.poll() is None:
                process.kill()  # its workers end when nobody reads what they write
                process.wait()
            process.stdout.close()
        if process.returncode != 0:
            errors.seek(0)
            lines = [line.strip() for line in errors.read().splitlines() if line.strip()]
            reason = last.get("reason") or " | ".join(lines[-3:]) or f"exit code {process.returncode}"
            raise RunError(f"{failure}: {reason}")
    return last


def workers() -> int:
    """Processes to share the work out between: the cores that this process may use, eight at most."""
    return min(8, len(os.sched_getaffinity(0)))
