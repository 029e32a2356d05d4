"""The documents are run, not believed: their commands, options, files, links, and the example of a scenario.

A document is a story: its commands are run in order, in a folder of its own, where all lies as it says.
What is not run says why here, and its options are held against the command's own `--help`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import random
import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest
from gateway_builders import make_run
from test_ledger import arrive, publish
from test_prompt import make_prompt

from actor.world import relay
from actor.world.people import make_cast
from actor.world.scenarios.form import Setting
from actor.world.task_files import apis_used
from common import cli
from common.checkpoint import TOKENIZER
from common.config import all_sections, option_names
from common.keys import new_keys

ROOT = Path(__file__).resolve().parent.parent
DOCS = [ROOT / "README.md", *sorted((ROOT / "common" / "docs").glob("*.md"))]
EVERY = pytest.mark.parametrize("doc", DOCS, ids=lambda doc: doc.name)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = set(option_names(all_sections()))
DRY = {"learner": "a run takes hours", "actor": "likewise"}  # run with --dry-run
# in fenced blocks, by the first words; anything that is named nowhere here is run as it stands
NOT_RUN = {
    "demo": "takes a quarter of an hour; tests/common/test_demo.py",
    "doctor": "asks of this machine what a test cannot know; tests/common/test_doctor.py",
    "eval": "needs published weights and an engine; tests/actor/test_evaluate.py",
    "learner export": "needs published weights; tests/learner/trainer/test_export.py",
    "learner warm-start": "trains for minutes; tests/learner/warm_start",
    "world install": "installs AppWorld; tests/actor/world/test_install.py",
    "world build": "takes minutes; tests/actor/world/test_build.py",
    "world verify": "plays every task; tests/actor/world/test_verify.py",
    "world check": "starts the engine; tests/actor/world/test_checkup.py",
    "world demonstrate": "plays in the engine; tests/actor/world/test_demonstrate.py",
    "world show": "shows a task of a world that only the example makes",
    "replay": "plays in the engine; tests/actor/world/test_replay_command.py",
    "report": "needs a run that was trained; tests/learner/report",
    "service": "has tests of its own",
    "status": "asks a learner that lives; has tests of its own",
    "tail": "may follow for ever; tests/common/test_tail.py",
}
PLAIN = {"tar", "mkdir", "rm", "cp"}  # run as they stand
OTHERS = {
    "python3.11": "installs all packages",
    "pip": "installs packages",
    "pytest": "is what runs this",
    "appworld": "downloads AppWorld's own data",
    "systemctl": "needs a systemd",
    "systemd-analyze": "likewise",
    "journalctl": "likewise",
    "loginctl": "likewise",
    "scp": "needs another machine",
    "ssh": "likewise",
    "curl": "needs a process that answers",
    "ip": "changes the network",
    "sudo": "needs rights",
    "cd": "moves about",
    "export": "sets a variable",
}


def text_of(doc):
    return doc.read_text(encoding="utf-8")


def fenced(doc):
    """Commands of a document's shell blocks, in order, as words; several on a line come apart."""
    found = []
    for kind, block in FENCE.findall(text_of(doc)):
        if kind in ("sh", "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words: list[str] = []
                for word in [*shlex.split(line, comments=True), "&&"]:
                    if word in ("&&", "||", "|", ";", "&"):
                        found += [words] if words else []
                        words = []
                    elif words or not re.fullmatch(r"[A-Z_]+=.*", word):
                        words.append(word)
    return found


def inline(doc):
    """`loop ...` commands within sentences and tables, as words."""
    prose = FENCE.sub("", text_of(doc))
    return [words.split() for words in re.findall(r"`(loop [a-z][^`\n]*)`", prose)]


@cache
def help_of(*words):
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):
        assert cli.main([*words, "--help"]) == 0, f"loop {' '.join(words)} --help"
    return told.getvalue()


def check_options(words):
    """Whether the command exists, and has the options that it is given here."""
    name, *rest = words
    assert name in cli.COMMANDS, f"there is no command loop {name}"
    told = help_of(name)
    if rest and re.fullmatch(r"[a-z][a-z-]+", rest[0]) and re.search(rf"\b{rest[0]}\b", told):
        told = help_of(name, rest[0])
    for word in rest:
        option = word.strip("[],").partition("=")[0]
        if re.fullmatch(r"--[a-z][a-z._-]*", option) and option != "--help":
            known = option.removeprefix("--") in OPTIONS or re.search(rf"{re.escape(option)}(?![\w-])", told)
            assert known, f"loop {' '.join(words)}: {option} is no option of it"


@EVERY
def test_every_command_in_a_sentence_has_the_options_that_it_is_told_with(doc):
    for words in inline(doc):
        check_options(words[1:])


@pytest.fixture
def place(tmp_path, monkeypatch, world_root):
    """A folder where models, data and runs lie as the documents say."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shape = {"model_type": "qwen2", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    for model in ("base", "models/Qwen2.5-32B-Instruct", "models/Qwen2.5-7B-Instruct", "models/Qwen3-0.6B"):
        (tmp_path / model).mkdir(parents=True)
        (tmp_path / model / "config.json").write_text(
            json.dumps({**shape, "intermediate_size": 128, "vocab_size": 1000})
        )
        (tmp_path / model / "tokenizer.json").write_text("{}")
    data = tmp_path / "worlds" / "appworld"
    (data / "data" / "datasets").mkdir(parents=True)
    (tmp_path / "worlds" / "train.txt").write_text("c_1\n")
    (data / "data" / "datasets" / "test_normal.txt").write_text("a_1\n")
    for name in ("full", "episode", "world.json"):
        (data / name).symlink_to(world_root / name)
    run = tmp_path / "runs" / "first"
    make_books(run)
    (tmp_path / "runs" / "32b").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_books(folder):
    """A small run: a few leases, two of which came back, and a tokenizer."""
    folder.mkdir(parents=True)
    run = make_run(folder)
    publish(run, 0)
    arrive(run, 2)
    run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    run.close()
    (folder / "model").mkdir()
    make_prompt()._tokenizer.save(str(folder / "model" / TOKENIZER))


@EVERY
def test_every_command_of_a_block_is_run_or_says_why_not(doc, place, world_root, capsys):
    commands = fenced(doc)
    made = {words[3] for words in commands if words[:3] == ["loop", "keys", "new"]}
    for name in {"learner", "actor-0"} - made:
        new_keys(place / "keys", name)
    for words in commands:
        words = [re.sub(r"\bROOT\b", str(world_root), re.sub(r"\bRUN\b", "runs/first", word)) for word in words]  # noqa: PLW2901
        program = Path(words[0]).name
        if program != "loop":
            assert program in PLAIN | set(OTHERS), f"{doc.name}: {words[0]} is neither run nor said why not"
            if program in PLAIN:
                subprocess.run(words, check=True, cwd=place)
            continue
        check_options(words[1:])
        if not {words[1], " ".join(words[1:3])} & set(NOT_RUN):
            dry = ["--dry-run"] if words[1] in DRY and "--dry-run" not in words else []
            code = cli.main([*(word for word in words[1:] if word != "--resume"), *dry])
            assert code == 0, f"{doc.name}: {' '.join(words)}: {capsys.readouterr().err}"


def test_nothing_is_excused_that_is_no_command():
    """`service` and `status` are excused before they come."""
    coming = {"service", "status"}
    assert {name.split()[0] for name in NOT_RUN} - coming <= set(cli.COMMANDS)


@EVERY
def test_every_file_that_is_named_exists(doc):
    spans = re.findall(r"`([^`\n]+)`", FENCE.sub("", text_of(doc)))
    named = {
        word for span in spans for word in span.split() if re.match(r"(actor|common|learner|configs|tests)/", word)
    }
    missing = [word for word in named if "*" not in word and not (ROOT / word.rstrip(",;:")).exists()]
    kinds = [word for word in missing if "." in word.rpartition("/")[2] or word.count("/") > 1]
    assert [word for word in kinds if not word.startswith("actors/")] == []


@EVERY
def test_every_option_that_is_named_exists(doc):
    """`learner.batch.epochs` in a sentence or table; a section alone will do."""
    sections = {name.rpartition(".")[0] for name in OPTIONS}
    sections |= {section.rpartition(".")[0] for section in sections}
    spans = re.findall(r"`(?:--)?((?:run|link|prompt|world|actor|evaluate|learner|demo)\.[a-z_.]+)`", text_of(doc))
    files = {"public", "secret", "py", "json", "jsonl", "yaml", "lock", "md", "sqlite"}
    modules = {span for span in spans if (ROOT / (span.replace(".", "/") + ".py")).exists()}
    wrong = {span for span in spans if span not in OPTIONS | sections | modules and span.split(".")[-1] not in files}
    assert wrong == set()


@EVERY
def test_every_link_to_a_file_leads_somewhere(doc):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", FENCE.sub("", text_of(doc)))
    broken = [link for link in links if "://" not in link and not (doc.parent / link).exists()]
    assert broken == []


def test_the_flow_map_names_files_that_exist_and_all_twelve_stages():
    text = text_of(ROOT / "common" / "docs" / "architecture.md")
    drawn = next(block for kind, block in FENCE.findall(text) if kind == "text")
    existing = [str(file.relative_to(ROOT)) for file in ROOT.glob("*/**/*.py")]
    named = set(re.findall(r"[\w/]+\.py", drawn))
    assert {name for name in named if not any(f"/{file}".endswith(f"/{name}") for file in existing)} == set()
    assert [int(number) for number in re.findall(r"^ ?(\d+) [a-z]+", drawn, re.MULTILINE)] == list(range(1, 13))


def test_the_changelog_knows_the_version():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = re.search(r'^version = "(.*)"', project, re.MULTILINE).group(1)
    text = text_of(ROOT / "common" / "docs" / "changelog.md")
    assert re.search(rf"^## .*{re.escape(version)}", text, re.MULTILINE)
    kinds = set(re.findall(r"^#### (.*)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture
def example(tmp_path):
    """The scenario that scenarios.md writes, as a file of its own."""
    text = text_of(ROOT / "common" / "docs" / "scenarios.md")
    file = tmp_path / "example_scenario.py"
    file.write_text(next(block for kind, block in FENCE.findall(text) if kind == "python"))
    return file


BUILD = """
import importlib, json, sys
from pathlib import Path
folder, module = Path(sys.argv[1]), Path(sys.argv[2])
sys.path.insert(0, str(module.parent))
from actor.world import engine, generate, plan, verify
plan.TRAIN, plan.UNSEEN, plan.CHALLENGE = (importlib.import_module(module.stem).DELETE_NOTE,), (), ()
verify.AT_BUILD = verify.EVERYTHING
(folder / "scratch").mkdir()
engine.set_paths(folder / "full", folder / "scratch")
generate.generate(folder, 1, {"train": 1, "dev": 1, "test_normal": 1, "unseen": 1, "test_challenge": 1}, 1)
print(json.dumps({"event": "example_built"}))
"""


def test_the_example_of_a_scenario_can_be_drafted_told_and_solved_with_apis_that_exist(example, world_root):
    spec = importlib.util.spec_from_file_location(example.stem, example)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scenario, cast = module.DELETE_NOTE, make_cast(1)
    draft = scenario.draft(random.Random(1), Setting(me=cast.people[0], friends=cast.people[1:3], songs=cast.songs))
    assert scenario.say(draft) == f"Delete my note '{draft.values['title']}' in SimpleNote."
    assert [row.fields["title"] for row in draft.rows].count(draft.values["title"]) == 1
    cells = [scenario.code(number, scenario.right(), draft.values, "") for number in range(len(scenario.cells))]
    assert all(compile(cell, "cell", "exec") for cell in cells)
    docs = json.loads((world_root / "full" / "data" / "api_docs" / "standard" / "simple_note.json").read_text())
    used = [api.partition(".")[2] for api in apis_used(scenario) if api.startswith("simple_note.")]
    assert used == ["login", "search_notes", "delete_note"]
    assert set(used) <= set(docs)


@pytest.mark.slow
def test_the_example_of_a_scenario_is_built_and_all_its_ways_are_tried(example, appworld_python, tmp_path):
    """Solution, doing nothing, every wrong option, damage beside: in the real engine, as `loop world verify` does."""
    (tmp_path / "world").mkdir()
    program = tmp_path / "build_example.py"
    program.write_text(BUILD)
    done = subprocess.run(
        [str(appworld_python), str(program), str(tmp_path / "world"), str(example)],
        env={
            "PYTHONPATH": str(relay.PROJECT),
            "PYTHONHASHSEED": "0",
            "PATH": "/usr/bin:/bin",
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "example_built"}
    tasks = tmp_path / "world" / "full" / "data" / "tasks"
    assert sorted(task.name for task in tasks.iterdir()) == ["deleteNote_1", "deleteNote_2", "deleteNote_3"]
