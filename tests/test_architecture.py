"""What can be held of how the code is built: who may import whom, lengths, options, words that must not occur."""

from __future__ import annotations

import ast
import re
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from common.config import all_sections, option_names

ROOT = Path(__file__).resolve().parent.parent
SIDES = ("actor", "common", "learner")
FILES = sorted(file for side in SIDES for file in (ROOT / side).rglob("*.py"))
MODULES = {file: ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in FILES}
# only these may import these packages: each stage's heavy or dangerous tool has one door
DOORS = {
    "vllm": {"actor.engine", "actor.engine_start"},
    "torch": {"learner"},
    "zmq": {
        *("common.channel", "common.doctor_reach", "common.file_link", "common.keys", "common.link", "common.sockets"),
        "common.status_link",
        "learner.gateway",
    },
    "tokenizers": {"common.prompt", "learner.warm_start.tokenizer"},
    "matplotlib": {"common.curve"},
    "prometheus_client": {"common.exporter", "common.measures"},
    # by name alone, and only there: a run does without
    "tensorboardX": set(),
    "wandb": set(),
    "sdnotify": {"common.notify"},
    "sqlite3": {"learner.gateway", "learner.report.gather", "actor.outbox", "actor.spool", "actor.world.changes"},
    # run in AppWorld's own virtualenv
    "appworld": {"actor.world"},
}


def tree_of(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def imports_of(file):
    """Every module that a file imports, at the top or within a function."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import hides where things are"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


IMPORTS = {MODULES[file]: imports_of(file) for file in FILES}


@pytest.mark.parametrize(
    ("side", "others"), [("actor", "learner"), ("learner", "actor"), ("common", "actor"), ("common", "learner")]
)
def test_a_side_does_not_import_the_other(side, others):
    wrong = [
        (module, imported)
        for module, imports in IMPORTS.items()
        for imported in imports
        if module.split(".")[0] == side and imported.split(".")[0] == others
    ]
    assert wrong == []


@pytest.mark.parametrize("package", DOORS)
def test_a_heavy_or_dangerous_package_has_one_door(package):
    allowed = DOORS[package]
    wrong = [
        module
        for module, imports in IMPORTS.items()
        if any(name.split(".")[0] == package for name in imports)
        and not any((module + ".").startswith(door + ".") for door in allowed)
    ]
    assert wrong == []


def test_the_gateway_never_imports_torch():
    """Not by way of another module of ours either."""
    reached, todo = set(), ["learner.gateway.service"]
    while todo:
        module = todo.pop()
        if module in reached or module not in IMPORTS:
            continue
        reached.add(module)
        todo += IMPORTS[module]
        assert not any(name.split(".")[0] in ("torch", "transformers", "peft") for name in IMPORTS[module]), module
    assert "learner.gateway.ledger" in reached


def test_no_import_goes_in_a_circle():
    graph = {
        module: {name for name in imports if name in IMPORTS and name != module} for module, imports in IMPORTS.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_no_file_is_above_400_lines():
    files = [*FILES, *(ROOT / "tests").rglob("*.py")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_every_file_of_tests_has_a_name_of_its_own():
    """Test files are no packages: pytest finds them by their names alone."""
    names = Counter(file.name for file in (ROOT / "tests").rglob("*.py") if file.name != "conftest.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_no_function_is_above_60_lines():
    long = [
        f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > 60
    ]
    assert long == []


def test_inheritance_is_never_deeper_than_one():
    """A class of ours may have a base of ours only where that base has none of ours."""
    bases = {
        node.name: [base.id for base in node.bases if isinstance(base, ast.Name)]
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.ClassDef)
    }
    deep = [name for name, own in bases.items() for base in own if any(above in bases for above in bases.get(base, ()))]
    assert deep == []


def test_no_file_has_a_name_that_says_nothing():
    assert [file for file in FILES if file.stem in {"utils", "helpers", "misc"}] == []


def test_the_unsafe_serializer_is_nowhere():
    word = "pic" + "kle"
    assert [file for file in FILES if re.search(word, file.read_text(encoding="utf-8"), re.IGNORECASE)] == []


def test_torch_load_is_only_called_with_weights_only():
    wrong = [
        f"{file}:{node.lineno}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "torch.load"
        and not any(k.arg == "weights_only" for k in node.keywords)
    ]
    assert wrong == []


def test_the_top_level_is_the_clients():
    allowed = {"actor", "common", "learner", "configs", "tests", "README.md", "pyproject.toml", "LICENSE"}
    built = {"build", "dist", "runs", "experiments"}
    found = {
        path.name for path in ROOT.iterdir() if not path.name.startswith(".") and not path.name.endswith(".egg-info")
    }
    assert found - built == allowed


def test_every_option_is_read_by_something():
    """A field that only its declaration names is a promise that nothing keeps."""
    read = {
        node.attr
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    unread = [name for name in option_names(all_sections()) if name.rpartition(".")[2] not in read]
    assert unread == []


def test_the_list_of_options_is_the_one_that_was_agreed():
    """A new, renamed or removed option is a decision: it changes tests/options.txt in the same commit."""
    agreed = (ROOT / "tests" / "options.txt").read_text(encoding="utf-8").split()
    assert list(option_names(all_sections())) == agreed


def test_every_option_says_what_it_means_and_gives_an_example():
    bare = [name for name, field in option_names(all_sections()).items() if not field.description or not field.examples]
    assert bare == []
