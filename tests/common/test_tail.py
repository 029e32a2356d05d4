"""`loop tail` as a person uses it: what is shown, in which order, and how it ends."""

import io
import os
import signal
import subprocess
import sys
from itertools import chain

import pytest
from log_lines import at, events_in, line, run_of

from common import cli, tail
from common.errors import UsageError

TRACEBACK = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: no\n'
MACHINES = {
    "gateway": [
        line(1, "gateway_listens", process="gateway"),
        line(4, "leases_freed", level="warning", process="gateway", actor="gpu-2", leases=3),
    ],
    "trainer": [
        line(2, "step_made", step=1, policy_version=1, seconds={"wait": 3.0}),
        line(5, "step_made", step=2, policy_version=2, seconds={"wait": 0.5}),
    ],
    "gpu-2": [
        line(3, "episode_finished", process="actor", actor="gpu-2", lease="g000041.3.0", task="a_1", reward=1.0),
        line(6, "engine_failed", level="error", process="actor", actor="gpu-2", exception=TRACEBACK),
    ],
}


@pytest.fixture
def run(tmp_path):
    return run_of(tmp_path / "run", **MACHINES)


def shown(capsys, *words):
    assert tail.main([*map(str, words)]) == 0
    return capsys.readouterr().out


def start(*words, **more):
    command = [sys.executable, "-m", "common.cli", "tail", *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


def test_the_logs_of_a_run_are_one_stream_in_the_order_of_time(run, capsys):
    in_order = ["gateway_listens", "step_made", "episode_finished", "leases_freed", "step_made", "engine_failed"]
    assert events_in(shown(capsys, run, "--json")) == in_order


def test_with_json_the_lines_are_as_they_are(run, capsys):
    assert sorted(shown(capsys, run, "--json").splitlines(keepends=True)) == sorted(chain(*MACHINES.values()))


def test_a_person_reads_when_level_who_what_and_the_fields(run, capsys):
    rows = shown(capsys, run).splitlines()
    fields = 'step=1 policy_version=1 seconds={"wait":3.0}'
    assert rows[1] == f"2020-11-23 04:00:02.000 info     trainer      step_made                {fields}"
    assert rows[2].startswith("2020-11-23 04:00:03.000 info     gpu-2        episode_finished ")
    assert rows[2].endswith(" lease=g000041.3.0 task=a_1 reward=1")
    assert [row.strip() for row in rows[-3:]] == [row.strip() for row in TRACEBACK.splitlines()]


@pytest.mark.parametrize(
    ("words", "seconds"),
    [
        (["--event", "step_made"], [2, 5]),
        (["--event", "step_*,engine_failed"], [2, 5, 6]),
        (["--event", "gateway_listens", "--event", "step_mad[ex]"], [1, 2, 5]),
        (["--level", "warning"], [4, 6]),
        (["--level", "info"], [1, 2, 3, 4, 5, 6]),
        (["--level", "ERROR"], [6]),
        (["--actor", "gpu-2"], [3, 4, 6]),
        (["--actor", "gpu-*"], [3, 4, 6]),
        (["--actor", "gpu"], []),
        (["--process", "trainer,gateway"], [1, 2, 4, 5]),
        (["--task", "a_1"], [3]),
        (["--policy-version", "2"], [5]),
        (["--version", "1"], [2]),
        (["--group", "g000041"], [3]),
        (["--group", "g00004"], []),
        (["--lease", "g000041.3.0"], [3]),
        (["--lease", "g000041.*"], [3]),
        (["--expression", "seconds.wait > 1"], [2]),
        (["--expression", 'seconds.wait > 0 and event == "step_made"', "--expression", "step == 2"], [5]),
        (["--since", "2020-11-23T04:00:04"], [4, 5, 6]),
        (["--since", "2020-11-23T05:00:04+01:00"], [4, 5, 6]),
        (["--since", "1s"], []),
        (["--event", "step_made", "--since", "2020-11-23T04:00:04"], [5]),
        (["--last", "2"], [5, 6]),
        (["--last", "1", "--event", "step_made"], [5]),
        (["--last", "0"], []),
    ],
)
def test_filters_leave_these_lines(run, capsys, words, seconds):
    times = [row[15:42] for row in shown(capsys, run, "--json", *words).splitlines()]
    assert times == [at(second) for second in seconds]
    assert len(shown(capsys, run, *words).splitlines()) == len(seconds) + (6 in seconds) * 3


def test_an_id_in_a_list_counts(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text(line(1, "step_refused", trajectories=["g000001.0.0", "g000001.1.0"]) + line(2, "other"))
    assert events_in(shown(capsys, file, "--json", "--lease", "g000001.1.0")) == ["step_refused"]


def test_since_a_while_ago_is_counted_from_now(tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"event": "new", "time": 4e9}\n{"event": "old", "time": 1e9}\n')
    assert events_in(shown(capsys, file, "--json", "--since", "10m")) == ["new"]


def test_broken_and_foreign_lines_are_shown_as_they_are_behind_a_mark(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    half = line(2)[:50]
    file.write_bytes((line(1) + TRACEBACK + "[1]\n\n\0\0\0\n\x1b[31mred\n").encode() + b"\xff\n" + half.encode())
    rows = shown(capsys, file).splitlines()
    assert rows[1:4] == [f"| {row}" for row in TRACEBACK.splitlines()]
    assert rows[4:] == ["| [1]", "| \\x1b[31mred", "| \N{REPLACEMENT CHARACTER}", f"~ {half}"]


def test_with_json_broken_and_foreign_lines_are_counted(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text(line(1) + TRACEBACK + line(2)[:50])
    assert tail.main([str(file), "--json"]) == 0
    printed = capsys.readouterr()
    assert events_in(printed.out) == ["step_made"]
    assert printed.err == "loop tail: left out 4 lines that are no JSON objects\n"


def test_numbers_that_json_does_not_know_are_read_as_python_writes_them(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text(line(1, loss=float("nan"), norm=float("inf")))
    assert shown(capsys, file, "--json") == file.read_text()
    assert shown(capsys, file).endswith("loss=nan norm=inf\n")


def test_text_that_would_steer_a_terminal_does_not(tmp_path, capsys):
    file = tmp_path / "a.jsonl"
    file.write_text(line(1, "e\x1b[2J", reason="a\x1b]0;x\x07b", process="p\r", **{"k\x1b": "v\nw"}))
    printed = shown(capsys, file)
    assert "\x1b" not in printed
    assert printed.count("\n") == 1


def test_standard_input_is_read_when_nothing_is_named():
    words = ["--event", "step_made", "--json"]
    for paths in ([], ["-"]):
        done = subprocess.run(
            [sys.executable, "-m", "common.cli", "tail", *paths, *words],
            input="".join(MACHINES["trainer"] + MACHINES["gateway"]),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "".join(MACHINES["trainer"])


def test_a_file_as_standard_input_is_put_in_order(run):
    file = run / "both.jsonl"
    file.write_text("".join(MACHINES["trainer"] + MACHINES["gateway"]))
    with file.open("rb") as stream:
        out, _ = start("--json", stdin=stream).communicate()
    assert [row[15:42] for row in out.decode().splitlines()] == [at(second) for second in (1, 2, 4, 5)]


def test_streams_of_several_machines_are_merged(tmp_path):
    pipes = [os.pipe(), os.pipe()]
    names = [f"/dev/fd/{reads}" for reads, _ in pipes]
    process = start("--json", "--window", 30, *names, pass_fds=[reads for reads, _ in pipes])
    for (reads, writes), machine in zip(pipes, ("trainer", "gpu-2"), strict=True):
        os.close(reads)
        os.write(writes, "".join(MACHINES[machine]).encode())
        os.close(writes)
    out, _ = process.communicate()
    assert [row[15:42] for row in out.decode().splitlines()] == [at(second) for second in (2, 3, 5, 6)]


def test_following_begins_with_the_last_lines_goes_on_with_new_ones_and_ends_quietly_when_interrupted(tmp_path):
    run = run_of(tmp_path / "run", a=[line(second, f"old_{second}") for second in range(12)])
    with start(run, "--follow", "--json", "--window", 0) as process:
        seen = [process.stdout.readline().decode() for _ in range(10)]
        assert events_in("".join(seen)) == [f"old_{second}" for second in range(2, 12)]
        with (run / "logs" / "a.jsonl").open("a") as stream:
            stream.write(line(20, "new"))
        assert events_in(process.stdout.readline().decode()) == ["new"]
        (run / "logs" / "b.jsonl").write_text(line(21, "in_a_log_that_appeared"))
        assert events_in(process.stdout.readline().decode()) == ["in_a_log_that_appeared"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
        assert process.stderr.read() == b""


def test_following_a_run_that_has_not_begun_says_that_it_waits(tmp_path):
    (tmp_path / "run").mkdir()
    with start(tmp_path / "run", "--follow", "--json") as process:
        assert b"waiting for logs in" in process.stderr.readline()
        run_of(tmp_path / "made", a=[line(1, "first")])
        (tmp_path / "made" / "logs").rename(tmp_path / "run" / "logs")
        assert events_in(process.stdout.readline().decode()) == ["first"]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130


@pytest.mark.parametrize(("count", "words"), [(20000, []), (20000, ["--follow"]), (1, ["--follow"])])
def test_a_reader_that_goes_away_ends_it_quietly(tmp_path, count, words):
    """Also while nothing is to be said."""
    run = run_of(tmp_path / "run", a=[line(1, f"event_{number}") for number in range(count)])
    with start(run, "--last", count, *words) as process:
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait() == 0
        assert process.stderr.read() == b""


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colours_are_for_a_terminal_that_wants_them(run, monkeypatch, variables, coloured):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal(io.BytesIO())
    monkeypatch.setattr(sys, "stdout", terminal)
    assert tail.main([str(run), "--level", "error"]) == 0
    assert (b"\x1b[31merror" in terminal.buffer.getvalue()) is coloured
    assert (b"\x1b" in terminal.buffer.getvalue()) is coloured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{run}/nothing.jsonl"], "no such file"),
        (["{empty}"], "no logs there"),
        (["{empty}/not/there", "--follow"], "no such file"),
        (["{run}", "--level", "loud"], "known are debug, info"),
        (["{run}", "--since", "later"], "10m"),
        (["{run}", "--since", "99999999999999d"], "10m"),
        (["{run}", "--expression", "exec('x')"], "exec"),
        (["{run}", "--window", "-1"], "not negative"),
        (["{run}", "--last", "-1"], "not negative"),
        (["{run}", "--trajectory", "g000041.3.0", "--level", "error"], "whole life"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_to_do(run, tmp_path, words, said):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=said):
        tail.main([word.format(run=run, empty=tmp_path / "empty") for word in words])


def test_a_terminal_alone_is_nothing_to_read_from(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO()))
    with pytest.raises(UsageError, match="nothing to read"):
        tail.main([])


def test_the_command_is_known():
    assert cli.COMMANDS["tail"][0] == "common.tail"
