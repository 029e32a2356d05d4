"""`loop X --help` answers at once, for what is heavy is imported when it is used. Held by that, not by a clock."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from common.cli import COMMANDS

# import names; each takes a twentieth of a second or more, or brings what does
HEAVY = {
    *("appworld", "jinja2", "matplotlib", "numpy", "peft", "prometheus_client", "pydantic_settings", "rich"),
    *("safetensors", "structlog", "tensorboardX", "tokenizers", "torch", "transformers", "vllm", "wandb"),
    *("common.messages", "common.display"),
}
# what makes keys needs the library whose keys they are
NEEDED = {"keys": {"zmq"}, "service": {"zmq"}}
ASKED = """
import contextlib, io, json, sys
from common.cli import main
printed = io.StringIO()
with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
    main([sys.argv[1], "--help"])
print(json.dumps({"printed": printed.getvalue(), "modules": sorted(sys.modules)}))
"""


def asked_for_help(command):
    done = subprocess.run([sys.executable, "-c", ASKED, command], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    return said["printed"], set(said["modules"])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_imports_nothing_heavy(command):
    printed, modules = asked_for_help(command)
    assert printed.startswith("usage: loop ")
    assert ((HEAVY | {"zmq"}) - NEEDED.get(command, set())) & modules == set()
