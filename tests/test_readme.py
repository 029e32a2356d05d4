"""The README is run, not believed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from common.cli import COMMANDS
from common.config import all_sections, option_names

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
CODE = "\n".join(re.findall(r"```(?:sh|bash)\n(.*?)```", README, re.DOTALL))


def test_the_second_command_is_what_ci_runs():
    commands = [line for line in CODE.splitlines() if line.startswith("python3.11 -m venv")]
    assert len(commands) == 2
    assert commands[0].endswith("loop demo")
    assert commands[1].endswith("pytest")
    assert commands[1] in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_every_loop_command_named_exists_and_answers_help():
    named = set(re.findall(r"\bloop ([a-z]+)", CODE))
    assert named <= set(COMMANDS)
    assert {"demo", "learner", "actor", "world", "keys"} <= named
    for name in sorted(named):
        done = subprocess.run(
            [sys.executable, "-m", "common.cli", name, "--help"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "usage" in done.stdout.lower()


def test_every_option_named_exists():
    options = option_names(all_sections())
    named = set(re.findall(r"--([a-z]+\.[a-z_.]+)", README))
    assert named
    assert named <= set(options)


def test_every_file_in_the_tree_exists_and_every_module_is_in_the_tree():
    tree = re.search(r"```text\n(actor/.*?)```", README, re.DOTALL).group(1)
    named = set(re.findall(r"([a-z0-9_/.-]+\.(?:py|yaml|txt))", tree))
    modules = {file.name for side in ("actor", "common", "learner") for file in (ROOT / side).rglob("*.py")} - {
        "__init__.py"
    }
    assert modules - {Path(name).name for name in named} == set()
    existing = {file.name for file in ROOT.rglob("*") if not set(file.parts) & {".venv", ".git"}}
    assert {Path(name).name for name in named} - existing == set()


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda file: file.name)
def test_every_config_resolves(config):
    from common.config import load

    assert load(all_sections(), config, [])["run"].seed == yaml.safe_load(config.read_text()).get("run", {}).get(
        "seed", 1
    )


METHODS = re.findall(r"^\| ([^|]+) \| `(--learner[^`]+)` \|$", README, re.MULTILINE)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[name for name, _ in METHODS])
def test_every_method_named_is_a_configuration_that_resolves(method, options):
    from common.config import load

    default = load(all_sections(), ROOT / "configs" / "tiny.yaml", [])["learner"]
    changed = load(all_sections(), ROOT / "configs" / "tiny.yaml", options.split())["learner"]
    assert changed != default


def test_the_methods_of_the_paper_are_among_those_named():
    named = " ".join(name for name, _ in METHODS)
    assert all(word in named for word in ("turn", "trajectory", "RLOO", "GRPO without KL", "expert iteration"))
