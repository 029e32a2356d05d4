"""`loop learner` as a process with its two children: what it refuses, how it ends, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trainer_building import make_model_folder

from common.cli import main
from common.config import RunConfig, load
from common.errors import RunError
from common.metrics import MetricsReader
from common.notify import Notifier
from common.processes import Children
from learner import parent
from learner.cli import SECTIONS
from learner.parent import _failure
from learner.vigil import Vigil

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 240


@pytest.fixture
def run(tmp_path):
    """Words of configuration for a run that will wait for an actor."""
    model = make_model_folder(tmp_path / "base")
    (tmp_path / "train.txt").write_text("a_1\nb_1\n")
    folder = tmp_path / "run"
    assert main(["keys", "new", "learner", "--folder", str(tmp_path / "keys")]) == 0
    options = {
        "--run.folder": folder,
        "--link.port": 0,
        "--link.files_port": 0,
        "--link.keys": tmp_path / "keys",
        "--learner.model.path": model,
        "--learner.rollout.train_tasks": tmp_path / "train.txt",
    }
    return folder, [str(word) for option in options.items() for word in option]


@pytest.fixture
def start():
    """Starts learners; none outlives the test."""
    started = []

    def start_one(words, *options):
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        arguments = [sys.executable, "-m", "common.cli", "learner", *words, *options]
        started.append(subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, env=environment))
        return started[-1]

    yield start_one
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def until(condition, process=None):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert process is None or process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def events(folder, name, event):
    file = folder / "logs" / f"{name}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    whole = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry for entry in whole if entry["event"] == event]


def waits_in_life(folder, number):
    """Whether the trainer of the run's `number`-th life is up and waits for groups."""
    return len(events(folder, "trainer", "step_waits")) >= number


def children_of(folder):
    """The newest pid of each child."""
    return {entry["name"]: entry["pid"] for entry in events(folder, "learner", "process_started")}


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_learner_ends_with_the_cause_goes_on_after_it_and_leaves_nobody_behind(run, start):
    folder, words = run
    # its trainer is killed: exit code 1 with the cause, and the gateway is ended
    first = start(words)
    until(lambda: waits_in_life(folder, 1), first)
    pids = children_of(folder)
    os.kill(pids["trainer"], signal.SIGKILL)
    _, said = first.communicate(timeout=DEADLINE_SECONDS)
    assert first.returncode == 1
    assert "the trainer was ended by SIGKILL" in said.splitlines()[-1]
    assert "--resume" in said.splitlines()[-1]
    assert is_gone(pids["gateway"])
    # it is killed itself: its children notice
    second = start(words, "--resume")
    until(lambda: waits_in_life(folder, 2), second)
    pids = children_of(folder)
    second.kill()
    second.communicate(timeout=DEADLINE_SECONDS)
    # at once, not after they are gone: the next one waits for them
    third = start(words, "--resume")
    until(lambda: all(is_gone(pid) for pid in pids.values()))
    until(lambda: waits_in_life(folder, 3), third)
    # a polite stop
    pids = children_of(folder)
    third.terminate()
    third.communicate(timeout=DEADLINE_SECONDS)
    assert third.returncode == 0
    assert all(is_gone(pid) for pid in pids.values())
    assert load(SECTIONS, folder / "config.yaml", []).section("run", RunConfig).folder == folder


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_dead_rank_ends_the_run_with_its_name_and_one_process_goes_on(run, start):
    folder, words = run
    first = start(words, "--nproc", "2")
    # each waits in words: rank 0 for the gateway's groups, rank 1 for what rank 0 is told
    until(lambda: waits_in_life(folder, 1) and events(folder, "trainer-1", "step_waits"), first)
    pids = children_of(folder)
    assert set(pids) == {"gateway", "trainer rank 0", "trainer rank 1"}
    os.kill(pids["trainer rank 1"], signal.SIGKILL)
    _, said = first.communicate(timeout=DEADLINE_SECONDS)
    assert first.returncode == 1
    assert "the trainer rank 1 was ended by SIGKILL" in said.splitlines()[-1]
    assert "trainer-1.jsonl, and go on with --resume" in said.splitlines()[-1]
    assert all(is_gone(pid) for pid in pids.values())
    second = start(words, "--resume")
    until(lambda: waits_in_life(folder, 2), second)
    assert "trainer" in children_of(folder)
    second.terminate()
    second.communicate(timeout=DEADLINE_SECONDS)
    assert second.returncode == 0


def test_a_dry_run_prints_the_configuration_and_starts_nothing(run, capsys):
    folder, words = run
    capsys.readouterr()
    assert main(["learner", *words, "--dry-run", "--learner.optimizer.learning_rate", "3e-5"]) == 0
    printed = folder.parent / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    assert load(SECTIONS, printed, [])["learner"].optimizer.learning_rate == 3e-5
    assert not folder.exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--learner.model.path", "nowhere"], "nowhere: not a model folder"),
        (["--learner.rollout.train_tasks", "nowhere.txt"], "learner.rollout.train_tasks: nowhere.txt: cannot be read"),
        (["--learner.optimizer.learning_rte", "1"], "did you mean"),
        (["--learner.rollout.temperature", "0.7"], "behaviour log-probs are reported at temperature 1"),
        (["--learner.objective.kl_stop", "20"], "a step has one: set batch.epochs or minibatch"),
        (["--prompt.thinking", "on"], "has no token </think>: only a Qwen3 thinks; set prompt.thinking: off"),
        (["--nproc", "0"], "--nproc: a number of processes from 1 is wanted (got '0')"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, capsys, options, says):
    folder, words = run
    given = [word for pair in zip(words[::2], words[1::2], strict=True) if pair[0] != options[0] for word in pair]
    assert main(["learner", *given, *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("loop learner: ")
    assert says in line
    assert not folder.exists()


def test_help_needs_neither_torch_nor_numpy():
    program = (
        "import sys; from common.cli import main\ntry: main(['learner', '--help'])\nfinally: print(sorted(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert "--learner.rollout.group_size" in made.stdout
    modules = made.stdout.splitlines()[-1]
    assert not [name for name in ("torch", "transformers", "numpy", "zmq", "peft") if f"'{name}'" in modules]


@pytest.mark.parametrize(
    ("code", "printed", "kind", "says"),
    [
        (2, "trainer: nowhere: has no tokenizer", "UsageError", "nowhere: has no tokenizer"),
        (1, "trainer: 3 steps in a row were not finite", "RunError", "exit code 1: 3 steps in a row were not finite"),
        (-9, "what it printed before", "RunError", "the trainer was ended by SIGKILL; see"),
    ],
)
def test_the_cause_is_what_the_child_said_last(tmp_path, code, printed, kind, says):
    output = tmp_path / "logs" / "trainer.out"
    output.parent.mkdir()
    output.write_text(f"something earlier\n{printed}\n")
    error = _failure(RunConfig(folder=tmp_path), "trainer", code)
    assert type(error).__name__ == kind
    assert says in str(error)


@pytest.fixture
def start_children(tmp_path):
    """Starts real processes under the children's names (`_` for a space) that run these statements."""
    children = Children()

    def start(**statements):
        for name, statement in statements.items():
            words = ["timeit", "-n1", "-r1", statement]
            children.start(name.replace("_", " "), words, output=tmp_path / f"{name}.out")
        return children

    yield start
    children.stop(5)


def test_a_trainer_that_lets_go_after_the_gateway_has_ended_well(tmp_path, start_children):
    children = start_children(gateway="pass", trainer="import time; time.sleep(1)")
    metrics = MetricsReader(tmp_path / "metrics.jsonl")
    assert parent._wait_for_end(RunConfig(folder=tmp_path), children, Vigil(Notifier()), metrics, [])


def test_a_trainer_that_goes_on_without_its_gateway_is_a_failure(tmp_path, start_children, monkeypatch):
    monkeypatch.setattr(parent, "FAREWELL_SECONDS", 0.0)
    children = start_children(gateway="pass", trainer="import time; time.sleep(60)")
    metrics = MetricsReader(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match="the gateway ended with exit code 0"):
        parent._wait_for_end(RunConfig(folder=tmp_path), children, Vigil(Notifier()), metrics, [])


@pytest.mark.parametrize(("patience", "named"), [(60.0, "trainer rank 1 was ended by SIGKILL"), (0.0, "exit code 3")])
def test_a_rank_that_lost_another_is_not_the_cause(tmp_path, start_children, monkeypatch, patience, named):
    """Not unless nobody else ends."""
    monkeypatch.setattr(parent, "CAUSE_SECONDS", patience)
    killed = "import os, time; time.sleep(1); os.kill(os.getpid(), 9)" if patience else "import time; time.sleep(60)"
    children = start_children(
        gateway="import time; time.sleep(60)", trainer_rank_0="import os; os._exit(3)", trainer_rank_1=killed
    )
    metrics = MetricsReader(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match=named):
        parent._wait_for_end(RunConfig(folder=tmp_path), children, Vigil(Notifier()), metrics, [])
