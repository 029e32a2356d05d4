"""Plays a prompt's worked example on AppWorld's unmodified engine, and writes what it printed into the example's file.

python tests/actor/world/playing_example.py    after a change of its cells: writes the observations anew
"""

import json
import os
import subprocess
import tempfile
from pathlib import Path

import yaml

from actor.world.install import appworld_python

HERE = Path(__file__).parent
FILE = HERE.parents[2] / "common" / "prompts" / "react" / "example.yaml"


def play(example):
    """{"observations", "completed", "verdict", ...} of the example's cells in a world of its own task."""
    with tempfile.TemporaryDirectory() as folder:
        root, scratch = Path(folder) / "root", Path(folder) / "scratch"
        root.mkdir()
        scratch.mkdir()
        task = json.dumps({name: example[name] for name in ("instruction", "supervisor")})
        run("example_world.py", root, task, scratch=scratch)
        episode = {"task": "example_1", "cells": [turn["code"] for turn in example["turns"]]}
        played = run("unmodified.py", root, scratch, scratch=scratch, asked=json.dumps([episode]))
    return json.loads(played)["episodes"][0]


def run(script, *words, scratch, asked=""):
    environment = {**os.environ, "HOME": str(scratch), "PYTHONHASHSEED": "0"}
    environment |= dict.fromkeys(("APPWORLD_CACHE", "IPYTHONDIR"), str(scratch))
    command = [str(appworld_python()), str(HERE / script), *map(str, words)]
    return subprocess.run(
        command, cwd=scratch, env=environment, input=asked, capture_output=True, text=True, check=True
    ).stdout


def rewrite():
    """The file with the observations as they are now."""
    text = FILE.read_text(encoding="utf-8")
    example = yaml.safe_load(text)
    for turn, observation in zip(example["turns"], play(example)["observations"], strict=True):
        turn["observation"] = observation
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    shown = yaml.dump(example, Dumper=Readable, sort_keys=False, allow_unicode=True, width=10_000)
    FILE.write_text(head + shown, encoding="utf-8")


class Readable(yaml.SafeDumper):
    """Text of several lines as it stands."""


Readable.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)

if __name__ == "__main__":
    rewrite()
