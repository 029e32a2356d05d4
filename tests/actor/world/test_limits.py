"""What a cell may use, enforced from outside of its process."""

import asyncio
import os
import select
import signal
import time

import pytest

from actor.world.cell import cut
from actor.world.client import WorldFailure

HOLD_ON = "while True:\n    try:\n        while True:\n            pass\n    except BaseException:\n        pass"
DISARM = "signal = datetime.sys.modules['signal']\nsignal.alarm(0)\nsignal.pthread_sigmask(0, range(1, 65))\n"
ENDLESS = {
    "python": HOLD_ON,
    "swallows_exceptions": "while True:\n    try:\n        pass\n    except Exception:\n        pass",
    "c_call": "sum(range(10**12))",
    "power": "print(len(str(7 ** 10**9)))",
    "regex": "re.match('(a+)+$', 'a' * 60 + 'b')",
    "signals_blocked": DISARM + HOLD_ON,
    "api_calls": HOLD_ON.replace("    pass", "    apis.supervisor.show_profile()", 1),
}


@pytest.fixture
def short(worlds, monkeypatch):
    """Cells of half a second."""
    monkeypatch.setattr(worlds.host, "config", worlds.host.config.model_copy(update={"cell_seconds": 0.5}))
    return worlds


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_a_cell_over_its_time_is_killed_and_its_world_can_be_graded(short, code):
    started = time.monotonic()
    (before, observation, after), verdict = short.play(["x = 1", code, "print(x)"])
    assert time.monotonic() - started < 20
    assert not before.failed
    assert observation.killed == "time"
    assert observation.failed
    assert observation.text == (
        "Execution failed. Traceback:\nExecution timed out after 0.5 seconds. The session has ended."
    )
    assert after.killed == "time"
    assert after.text == "The session has ended: no more code can be executed."
    assert not verdict.success


def test_what_was_done_before_a_kill_counts(short, monkeypatch):
    config = short.host.config.model_copy(update={"cell_seconds": 5.0})
    monkeypatch.setattr(short.host, "config", config)  # half a second may not be enough for the cells of a solution
    task_id = short.tasks[0]
    observations, verdict = short.play([*short.solution(task_id), HOLD_ON], task_id)
    assert observations[-1].killed == "time"
    assert observations[-1].completed
    assert verdict.success


def test_what_the_killed_cell_itself_had_done_counts_too(short, monkeypatch):
    config = short.host.config.model_copy(update={"cell_seconds": 5.0})
    monkeypatch.setattr(short.host, "config", config)  # half a second may not be enough for what it does first
    task_id = short.tasks[0]
    *first, last = short.solution(task_id)
    observations, verdict = short.play([*first, last + "\n" + HOLD_ON], task_id)
    assert observations[-1].killed == "time"
    assert observations[-1].completed
    assert verdict.success


@pytest.fixture
def going_on(worlds, monkeypatch):
    """A killed cell does not end the episode. Three seconds are more than an honest cell needs on a busy machine."""
    config = worlds.host.config.model_copy(update={"killed_cell": "go_on", "cell_seconds": 3.0})
    monkeypatch.setattr(worlds.host, "config", config)
    return worlds


ENDED = "datetime.sys.modules['ctypes'].string_at(0)"
NOTE = (
    "email, name = apis.supervisor.show_profile()['email'], 'simple_note'\n"
    "passwords = {entry['account_name']: entry['password'] for entry in apis.supervisor.show_account_passwords()}\n"
    "token = apis.simple_note.login(username=email, password=passwords[name])['access_token']\n"
)


def test_after_a_killed_cell_a_fresh_process_serves_the_same_databases(going_on):
    write = NOTE + "print(apis.simple_note.create_note(title='kept', content='c', access_token=token))\n" + HOLD_ON
    find = NOTE + "print(len(apis.simple_note.search_notes(query='kept', access_token=token)))"
    cells = ["x = 1", write, "print(x)", find, ENDED, "print(2)", ENDED, find]
    observations, verdict = going_on.play(cells)
    assert [seen.killed for seen in observations] == [None, "time", None, None, "exited", None, "exited", None]
    assert [seen.goes_on for seen in observations] == [seen.killed is not None for seen in observations]
    assert observations[1].text == (
        "Execution failed. Traceback:\nExecution timed out after 3 seconds. "
        "The session was started anew: all variables are gone, what was done in the apps stands."
    )
    assert observations[2].text.endswith("NameError: name 'x' is not defined")
    assert (observations[3].text, observations[5].text, observations[7].text) == ("1\n", "2\n", "1\n")
    assert not verdict.success


def test_a_task_is_solved_after_a_killed_cell(going_on):
    task_id = going_on.tasks[0]
    observations, verdict = going_on.play([ENDED, *going_on.solution(task_id)], task_id)
    assert observations[-1].completed
    assert verdict.success


def test_a_fresh_process_goes_on_with_the_episodes_random_numbers(going_on):
    draw = "import random\nprint([random.random() for _ in range(3)])"
    known = "apis.supervisor.show_profile()\n"  # what is drawn before a call is known to the member process
    plain = going_on.play([draw, known, draw, draw])[0]
    killed = going_on.play([draw, known, ENDED, draw, draw])[0]
    assert [seen.text for seen in killed if seen.killed is None] == [seen.text for seen in plain]
    assert plain[0].text != plain[2].text


def test_an_episode_whose_time_is_over_does_not_go_on(going_on, monkeypatch):
    config = going_on.host.config.model_copy(update={"episode_seconds": 0.4})
    monkeypatch.setattr(going_on.host, "config", config)
    (killed, after), _ = going_on.play([HOLD_ON, "print(1)"])
    assert (killed.killed, killed.goes_on, after.killed, after.goes_on) == ("episode", False, "episode", False)


def test_a_fresh_process_is_as_confined_as_the_first(going_on):
    look = (
        "os, resource = datetime.sys.modules['os'], datetime.sys.modules['resource']\n"
        "names = ['RLIMIT_AS', 'RLIMIT_CPU', 'RLIMIT_NPROC', 'RLIMIT_FSIZE', 'RLIMIT_NOFILE']\n"
        "print([resource.getrlimit(getattr(resource, name)) for name in names])\n"
        "print(os.getresuid(), os.getresgid(), os.getgroups(), os.getcwd(), dict(os.environ), os.getpriority(0, 0))\n"
        "Socket = datetime.sys.modules['socket']\n"
        "one, other = Socket.socketpair()\n"
        "one.send(b'x')\n"
        "for refused in (Socket.socket, lambda: other.recvmsg(1, 64), lambda: one.sendmsg([b'x'])):\n"
        "    try:\n        print(refused())\n    except OSError as error:\n        print(error)"
    )
    first, _, second = going_on.play([look, ENDED, look], grade=False)[0]
    assert not first.failed
    assert first.text.count("[Errno 1] Operation not permitted") == 3
    assert second.text == first.text


def test_a_fresh_process_ends_with_its_world(going_on):
    async def scenario():
        world = await going_on.host.open(going_on.tasks[0])
        await world.execute(ENDED)
        await world.execute("print(1)")
        cell = os.dup(world._pidfds[1])
        await world.close()
        return cell

    cell = going_on.run(scenario())
    assert select.select([cell], [], [], 20)[0] == [cell]
    os.close(cell)


def test_a_member_that_dies_gets_no_fresh_process(going_on):
    async def scenario():
        world = await going_on.host.open(going_on.tasks[0])
        await world.execute(ENDED)
        signal.pidfd_send_signal(world._pidfds[0], signal.SIGKILL)
        with pytest.raises(WorldFailure):
            await world.execute("print(1)")
        with pytest.raises(WorldFailure, match="is broken"):
            await world.grade()
        await world.close()

    going_on.run(scenario())


def test_a_killed_cell_delays_nobody_else(short):
    async def scenario():
        stuck, free = await short.host.open(short.tasks[0]), await short.host.open(short.tasks[1])
        turn = asyncio.create_task(stuck.execute(HOLD_ON))
        texts = [(await free.execute(f"print({number})")).text for number in range(3)]
        assert not turn.done()
        killed = (await turn).killed
        for world in (stuck, free):
            await world.close()
        return texts, killed

    assert short.run(scenario()) == (["0\n", "1\n", "2\n"], "time")


def test_an_episode_over_its_time_is_killed(worlds, monkeypatch):
    monkeypatch.setattr(worlds.host, "config", worlds.host.config.model_copy(update={"episode_seconds": 0.3}))
    observation = worlds.only(HOLD_ON)
    assert observation.killed == "episode"
    assert "time of the whole session is over" in observation.text


def test_threads_cannot_be_started(worlds):
    observation = worlds.only("datetime.sys.modules['threading'].Thread(target=print).start()")
    assert observation.text.endswith("RuntimeError: can't start new thread")


def test_a_thread_bomb_hits_its_limit_and_nobody_elses(short):
    start = "datetime.sys.modules['threading'].Thread(target=print).start()"
    bomb = f"while True:\n    try:\n        {start}\n    except BaseException:\n        pass"
    assert short.only(bomb).killed == "time"
    assert short.only("print('well')").text == "well\n"


def test_memory_above_the_limit_is_an_ordinary_failure(worlds):
    (first, second), _ = worlds.play(["x = bytearray(10**10)", "print('still here')"])
    assert first.text.endswith("MemoryError")
    assert first.killed is None
    assert second.text == "still here\n"


def test_the_kernel_limits_the_cell_process(worlds):
    names = ["RLIMIT_CPU", "RLIMIT_NPROC", "RLIMIT_FSIZE", "RLIMIT_CORE"]
    code = f"r = datetime.sys.modules['resource']\nprint([r.getrlimit(getattr(r, name))[1] for name in {names}])"
    assert worlds.only(code).text == f"[{int(worlds.host.config.episode_seconds) + 1}, 0, 0, 0]\n"


def test_50_mb_of_output_are_cut_before_they_reach_the_client(worlds):
    observation = worlds.only("print('abcdefghi\\n' * 5_000_000)")
    assert len(observation.text) < 200_100
    assert observation.text.startswith("abcdefghi\nabcdefghi\n")
    assert observation.text.endswith("[Output cut: 199999 of 50000001 characters are shown.]")


@pytest.mark.parametrize(
    "sent",
    [
        "(10**9).to_bytes(4, 'big') * 2",
        "(100_000).to_bytes(4, 'big') + bytes(4) + b'[' * 100_000",
        "(2).to_bytes(4, 'big') + bytes(4) + b'{}'",
        "(15).to_bytes(4, 'big') + bytes(4) + b'{\"random\": true}'[:15]",
    ],
    ids=["too_much", "too_deep", "nothing_asked", "no_json"],
)
def test_a_cell_process_that_sends_no_frame_of_ours_is_ended(worlds, sent):
    forge = (
        "gc, Socket = (datetime.sys.modules[name] for name in ('gc', 'socket'))\n"
        "for found in gc.get_objects():\n"
        "    if isinstance(found, Socket.socket) and found.fileno() >= 0:\n"
        "        try:\n"
        f"            found.sendall({sent})\n"
        "        except OSError:\n"
        "            pass\n"
    )
    (observation, after), verdict = worlds.play([forge, "print(1)"])
    assert observation.killed == "output"
    assert after.killed == "output"
    assert not verdict.success


def test_a_session_that_changes_too_much_ends_as_an_episode_not_as_a_failure_of_the_world(worlds):
    code = (
        "login = {entry['account_name']: entry['password'] for entry in apis.supervisor.show_account_passwords()}\n"
        "email = apis.supervisor.show_profile()['email']\n"
        "token = apis.simple_note.login(username=email, password=login['simple_note'])['access_token']\n"
        "for number in range(12):\n"
        "    apis.simple_note.create_note(title=str(number), content='x' * 4_000_000, access_token=token)\n"
    )
    (big, after), verdict = worlds.play([code, "print(1)"])
    assert big.killed == "memory"
    assert "changed more data" in big.text
    assert after.killed == "memory"
    assert not verdict.success


def test_an_api_call_that_outlasts_its_cells_kill_is_ended_with_it(short, monkeypatch):
    monkeypatch.setattr("actor.world.client.KILL_SECONDS", 0.0)
    (observation, after), verdict = short.play([HOLD_ON, "print(1)"])
    assert (observation.killed, after.killed) == ("time", "time")
    assert not verdict.success


def test_a_cell_process_that_ends_by_itself_is_told_apart(worlds):
    assert worlds.only(ENDED).killed == "crashed"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("a" * 10, "a" * 10),
        ("a" * 11, "a" * 10 + "\n[Output cut: 10 of 11 characters are shown.]"),
        ("abc\ndef\nghijkl", "abc\ndef\n[Output cut: 7 of 14 characters are shown.]"),
    ],
)
def test_output_is_cut_at_the_end_of_a_line(text, expected):
    assert cut(text, 10) == expected
