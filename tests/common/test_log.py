"""Where lines go, what they carry, and that nothing of it stops the process."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import structlog

from common import log as logs
from common.config import RunConfig

ROOT = Path(__file__).resolve().parent.parent.parent
log = logs.get_logger("tests.log")


def lines(file):
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.delenv(logs.PARENT, raising=False)
    monkeypatch.delenv(logs.SHARED, raising=False)
    return tmp_path / "logs" / "actor-0.jsonl"


@pytest.fixture
def configured(file):
    logs.configure("actor", file=file, to="file", run="tiny-1", actor="actor-0")
    return file


# --- what a line carries


def test_a_line_begins_with_what_every_line_carries_in_one_order(configured):
    log.info("happened", seconds=1.5, task="3a_1", group="g000001", lease="g000001.0.0", policy_version=3)
    (line,) = lines(configured)
    assert list(line) == [
        *("timestamp", "level", "event", "module", "process", "run", "actor"),
        *("lease", "group", "task", "policy_version", "seconds"),
    ]
    told = {name: line[name] for name in ("level", "event", "module", "process", "run", "actor")}
    assert list(told.values()) == ["info", "happened", "tests.log", "actor", "tiny-1", "actor-0"]
    assert len(line["timestamp"]) == len("2026-01-01T00:00:00.000000Z")
    assert line["timestamp"].endswith("Z")


def test_what_becomes_known_later_is_carried_from_then_on(configured):
    log.info("before")
    logs.identify(run="tiny-1-20260101-120000", actor="")
    log.info("after")
    assert [(line["run"], line["actor"]) for line in lines(configured)] == [
        ("tiny-1", "actor-0"),
        ("tiny-1-20260101-120000", "actor-0"),
    ]


def test_episodes_side_by_side_each_carry_their_own_lease(configured):
    async def inner():
        await asyncio.sleep(0)
        log.info("inside")

    async def episode(lease):
        with logs.about(lease=lease, task="t"):
            await asyncio.sleep(0)
            async with asyncio.TaskGroup() as group:
                group.create_task(inner())
            await asyncio.to_thread(log.info, "in_thread")
        log.info("outside")

    async def all_of_them():
        await asyncio.gather(*(episode(f"g000001.{member}.0") for member in range(3)))

    asyncio.run(all_of_them())
    found = [(line["event"], line.get("lease"), line.get("task")) for line in lines(configured)]
    leases = [f"g000001.{member}.0" for member in range(3)]
    assert sorted(found, key=str) == sorted(
        [
            *(("inside", lease, "t") for lease in leases),
            *(("in_thread", lease, "t") for lease in leases),
            *[("outside", None, None)] * 3,
        ],
        key=str,
    )


def test_a_task_that_outlives_the_lease_it_began_in_does_not_carry_it(configured):
    async def says():
        log.info("said")

    async def begin():
        with logs.about(lease="g000001.0.0"):
            await asyncio.create_task(says(), context=logs.about_nothing())

    asyncio.run(begin())
    assert "lease" not in lines(configured)[0]


def test_a_thread_of_its_own_carries_what_the_process_is(configured):
    with logs.about(lease="g000001.0.0"):
        thread = threading.Thread(target=log.info, args=("said",))
        thread.start()
        thread.join()
    (line,) = lines(configured)
    assert (line["process"], line["run"], line["actor"]) == ("actor", "tiny-1", "actor-0")
    assert "lease" not in line


def test_the_least_level_is_as_configured(file):
    logs.configure("actor", file=file, to="file", level="warning")
    log.info("not_said")
    log.warning("said")
    assert [line["event"] for line in lines(file)] == ["said"]


def test_a_defect_has_its_traceback(configured):
    try:
        int("as it was")
    except ValueError as error:
        log.warning("failed", exc_info=error)
    (line,) = lines(configured)
    assert line["exception"].endswith("invalid literal for int() with base 10: 'as it was'")
    assert "exc_info" not in line


# --- other packages


def test_warnings_of_other_packages_come_tagged_with_their_source(configured):
    logging.getLogger("vllm.v1.core").warning("slow: %d", 7)
    logging.getLogger("vllm.v1.core").info("not passed on")
    logging.getLogger("asyncio").error("never retrieved", exc_info=ValueError("lost"))
    told = [(line["event"], line["level"], line["source"], line["module"], line["text"]) for line in lines(configured)]
    assert told == [
        ("library_warning", "warning", "vllm", "vllm.v1.core", "slow: 7"),
        ("library_error", "error", "asyncio", "asyncio", "never retrieved"),
    ]
    assert lines(configured)[1]["exception"].endswith("ValueError: lost\n")


def test_warnings_of_python_come_too(file):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logs.configure("actor", file=file, to="file")
        warnings.warn("this is old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    (line,) = lines(file)
    assert (line["event"], line["source"], line["module"]) == ("library_warning", "python", "py.warnings")
    assert "DeprecationWarning: this is old" in line["text"]


def test_a_library_that_says_too_much_is_cut(configured):
    logging.getLogger("vllm").warning("x" * 100_000)
    assert len(lines(configured)[0]["text"]) == 2000


# --- where lines go


def test_a_service_logs_to_standard_output_and_its_file(file, capsys):
    logs.configure("actor", file=file, to="output", actor="actor-0")
    log.info("happened")
    printed = capsys.readouterr()
    assert printed.out == file.read_text()
    assert json.loads(printed.out)["event"] == "happened"
    assert printed.err == ""


def test_a_command_keeps_standard_output_for_its_result(capsys, file):
    logs.configure("eval")
    log.info("happened")
    printed = capsys.readouterr()
    assert json.loads(printed.err)["process"] == "eval"
    assert printed.out == ""
    assert not file.exists()


@pytest.mark.parametrize("to", ["output", "error"])
def test_what_one_of_our_own_processes_started_logs_to_its_file_alone(file, capsys, monkeypatch, to):
    monkeypatch.setenv(logs.PARENT, "1")
    logs.configure("actor", file=file, to=to)
    log.info("happened")
    assert capsys.readouterr() == ("", "")
    assert [line["event"] for line in lines(file)] == ["happened"]


def test_without_a_file_it_logs_to_standard_error_which_its_parent_keeps(file, capsys, monkeypatch):
    monkeypatch.setenv(logs.PARENT, "1")
    logs.configure("world")
    log.info("happened")
    assert json.loads(capsys.readouterr().err)["event"] == "happened"


def test_a_terminal_gets_the_pleasant_form_and_the_file_json(file, monkeypatch):
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        logs.configure("actor", file=file, to="output", run="tiny-1", actor="actor-0")
        with logs.about(lease="g000001.0.0"):
            log.warning("episode_failed", reason="it broke")
        shown = os.read(master, 10_000).decode()
    os.close(master)
    plain = "".join(part.partition("m")[2] if index else part for index, part in enumerate(shown.split("\x1b[")))
    time, rest = plain.strip().split(maxsplit=1)
    assert len(time) == len("12:00:00")
    assert rest.split() == ["[warning", "]", "episode_failed", "lease=g000001.0.0", "reason='it", "broke'"]
    assert lines(file)[0]["process"] == "actor"


CHILD = """
import sys
from pathlib import Path
from common import log
log.configure("gateway", file=Path(sys.argv[1]), to="output", run="tiny")
log.get_logger("child").info("begun")
print("printed")
"""
PARENT = """
import sys
from pathlib import Path
from common import log
from common.processes import Children
folder = Path(sys.argv[1])
log.configure("learner", file=folder / "learner.jsonl", to=sys.argv[2], run="tiny")
children = Children()
child = children.start("gateway", ["gateway_of_a_test", str(folder / "gateway.jsonl")], output=folder / "gateway.out",
                       environment={"PYTHONPATH": f"{folder}:{sys.argv[3]}"})
sys.exit(child.wait())
"""


@pytest.mark.parametrize(("to", "processes"), [("output", ["learner", "gateway"]), ("file", [])])
def test_a_services_children_log_to_its_standard_output_besides_their_files(tmp_path, to, processes):
    (tmp_path / "gateway_of_a_test.py").write_text(CHILD)
    environment = {name: value for name, value in os.environ.items() if name not in (logs.PARENT, logs.SHARED)}
    done = subprocess.run(
        [sys.executable, "-c", PARENT, str(tmp_path), to, str(ROOT)],
        cwd=ROOT,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["process"], line["run"]) for line in told] == [(process, "tiny") for process in processes]
    assert [line["event"] for line in lines(tmp_path / "gateway.jsonl")] == ["begun"]
    assert [line["event"] for line in lines(tmp_path / "learner.jsonl")] == ["process_started"]
    assert (tmp_path / "gateway.out").read_text() == "printed\n"


# --- what cannot be written


def test_a_full_disk_costs_the_file_its_lines_and_nothing_else(file, capsys):
    file.parent.mkdir()
    file.symlink_to("/dev/full")
    logs.configure("actor", file=file, to="output")
    log.info("lost")
    file.unlink()  # room again
    log.info("kept")
    assert [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()] == ["lost", "kept"]
    assert [line["event"] for line in lines(file)] == ["kept"]


class FullDisk(io.StringIO):
    def write(self, text):
        raise OSError(errno.ENOSPC, text)


def test_standard_output_on_a_full_disk_costs_lines_and_nothing_else(file, monkeypatch):
    monkeypatch.setattr(sys, "stdout", FullDisk())
    logs.configure("actor", file=file, to="output")
    log.info("kept")
    log.info("kept")
    assert [line["event"] for line in lines(file)] == ["kept", "kept"]


def test_a_reader_that_goes_away_costs_lines_and_nothing_else(tmp_path):
    text = f"""
import sys
from pathlib import Path
from common import log
log.configure("actor", file=Path({str(tmp_path / "log")!r}), to="output")
own = log.get_logger("actor")
sys.stdin.read()
own.info("first")
own.info("second")
"""
    environment = {name: value for name, value in os.environ.items() if name not in (logs.PARENT, logs.SHARED)}
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment,
    )
    process.stdout.close()
    process.stdin.close()
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (0, b"")
    assert [line["event"] for line in lines(tmp_path / "log")] == ["first", "second"]


# --- the options


def test_the_options_of_a_run_say_how_large_a_log_may_grow(tmp_path, monkeypatch):
    monkeypatch.delenv(logs.PARENT, raising=False)
    run = RunConfig(folder=tmp_path, log_bytes=4096, log_files=2, log_level="debug")
    logs.configure("actor", **run.log("actor-0"), to="file")
    for number in range(200):
        log.debug("happened", number=number)
    names = sorted(one.name for one in (tmp_path / "logs").iterdir())
    assert names == ["actor-0.jsonl", "actor-0.jsonl.1", "actor-0.jsonl.2"]
    assert all(one.stat().st_size <= 4096 for one in (tmp_path / "logs").iterdir())
    told = [line["number"] for name in reversed(names) for line in lines(tmp_path / "logs" / name)]
    assert told == list(range(told[0], 200))


def test_a_log_is_set_up_anew_without_what_was_before(configured, tmp_path):
    logs.configure("eval", file=tmp_path / "other", to="file")
    log.info("happened")
    assert "run" not in lines(tmp_path / "other")[0]
    assert structlog.contextvars.get_contextvars() == {}
    assert lines(configured) == [] if configured.exists() else True
