"""What breaks, breaks as a WorldFailure, is started again, and leaves nothing behind."""

import asyncio
import contextlib
import gc
import os
import select
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from actor.world import client
from actor.world.client import TaskText, UnusableTask, WorldFailure, WorldHost
from actor.world.config import WorldConfig
from actor.world.root import check_root
from common.errors import RunError


def children_of(pid):
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            if int(fields[1]) == pid:
                found.append(int(entry.name))
    return found


def descriptors(pid):
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that listed the others
            found.append(str(entry.readlink()).split(":")[0])
    return sorted(found)


def namespaces(pid):
    """A namespace lives by its processes, descriptors and mounts: these are counted beside."""
    return sorted(str(entry.readlink()) for entry in Path(f"/proc/{pid}/ns").iterdir())


def left(worlds):
    """All that worlds could leave: processes, descriptors, files and folders, namespaces, mounts, held slots."""
    gc.collect()  # what other tests of this process left open is not to be closed between two looks
    host = worlds.host
    pids = os.getpid(), host._host.process.process.pid, host._grader._process.process.pid
    return {
        "children": [sorted(children_of(pid)) for pid in pids],
        "descriptors": [descriptors(pid) for pid in pids],
        "files": sorted(str(path) for path in host._scratch.rglob("*")),
        "namespaces": [namespaces(pid) for pid in pids],
        "mounts": [len(Path(f"/proc/{pid}/mountinfo").read_text().splitlines()) for pid in pids],
        "open": (len(host._worlds), host._slots._value),
    }


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_parallel_episodes_leave_nothing_behind_and_are_graded_right(worlds, monkeypatch, count):
    host = worlds.host
    config = host.config.model_copy(update={"killed_cell": "go_on", "open_seconds": 600.0, "cell_seconds": 600.0})
    monkeypatch.setattr(host, "config", config)
    monkeypatch.setattr(host, "_slots", asyncio.Semaphore(500))

    async def episode(number):
        """Right ones, wrong ones; some with a killed cell; some abandoned: amid a cell, without a cell or a grade."""
        task_id, kind = worlds.tasks[number // 12 % len(worlds.tasks)], number % 12
        world = await host.open(task_id)
        try:
            if kind == 0:
                turn = asyncio.create_task(world.execute("while True: pass"))
                await asyncio.wait({turn}, timeout=0)
                turn.cancel()
                await asyncio.wait({turn})
                return None
            if kind == 1:
                return None
            if kind == 2:
                assert (await world.execute("datetime.sys.modules['ctypes'].string_at(0)")).goes_on
            if kind == 3:
                await world.execute("print(apis.supervisor.show_profile())")
                return None
            wrong = kind in {4, 5}
            for cell in ["print(1)"] if wrong else worlds.solution(task_id):
                await world.execute(cell)
            return (await world.grade()).success is not wrong
        finally:
            await world.close()

    async def settled():
        for _ in range(600):
            if not children_of(host._host.process.process.pid) and not any(
                path.name.isdigit() for path in host._scratch.iterdir()
            ):
                return
            await host.graded(worlds.tasks[0], [])  # passes time with the event loop running
        raise AssertionError([children_of(host._host.process.process.pid), list(host._scratch.iterdir())])

    async def episodes():
        results = await asyncio.gather(*(episode(number) for number in range(count)))
        await settled()
        return results

    worlds.run(settled())
    before = left(worlds)
    results = worlds.run(episodes())
    assert results.count(True) == sum(number % 12 not in {0, 1, 3} for number in range(count))
    assert results.count(False) == 0
    assert left(worlds) == before


def test_a_host_that_dies_fails_its_episodes_and_is_started_again(worlds):
    host = worlds.host
    restarts = host.restarts

    async def scenario():
        idle, busy = await host.open(worlds.tasks[0]), await host.open(worlds.tasks[0])
        turn = asyncio.create_task(busy.execute("while True: pass"))
        await idle.execute("print(1)")
        host._host.process.kill()
        for attempt in (turn, idle.execute("print(1)")):
            with pytest.raises(WorldFailure, match="broke down"):
                await attempt
        with pytest.raises(WorldFailure, match="is broken"):
            await idle.grade()
        for world in (idle, busy):
            await world.close()
        again = await host.open(worlds.tasks[0])
        for cell in worlds.solution(worlds.tasks[0]):
            await again.execute(cell)
        return await again.grade()

    with capture_logs() as logs:
        assert worlds.run(scenario()).success
    assert host.restarts == restarts + 1
    assert "world_host_died" in [entry["event"] for entry in logs]


def test_a_member_that_dies_fails_its_episode_alone(worlds):
    async def scenario():
        world, other = await worlds.host.open(worlds.tasks[0]), await worlds.host.open(worlds.tasks[0])
        signal.pidfd_send_signal(world._pidfds[0], signal.SIGKILL)
        with pytest.raises(WorldFailure, match="broke down"):
            await world.execute("print(1)")
        await world.close()
        seen = await other.execute("print(2)")
        await other.close()
        return seen.text

    assert worlds.run(scenario()) == "2\n"


def test_a_cell_process_that_is_killed_is_told_to_the_policy(worlds):
    async def scenario():
        world = await worlds.host.open(worlds.tasks[0])
        signal.pidfd_send_signal(world._pidfds[1], signal.SIGKILL)
        seen = await world.execute("print(1)")
        verdict = await world.grade()
        return seen, verdict

    seen, verdict = worlds.run(scenario())
    assert seen.killed == "killed"
    assert not verdict.success


def test_a_task_that_cannot_be_built_is_refused_by_name(worlds, monkeypatch):
    ghost = TaskText("ghost_1", "", "", "", "", "", "")
    monkeypatch.setattr(client, "read_task", lambda root, task_id: ghost)
    with pytest.raises(UnusableTask, match=r"task ghost_1 of the data root cannot be opened: .*doesn't exist"):
        worlds.run(worlds.host.open("ghost_1"))
    monkeypatch.undo()
    assert worlds.play(worlds.solution(worlds.tasks[0]), worlds.tasks[0])[1].success


def test_what_a_process_prints_is_an_event(world_root, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho what the engine says\nexit 3\n")
    python.chmod(0o755)
    with (
        capture_logs() as logs,
        pytest.raises(RunError, match=r"actor.world.(host|grade) did not start: (it|its process has) ended") as caught,
    ):
        asyncio.run(WorldHost.start(WorldConfig(), python, world_root))
    assert "; its last words: what the engine says; where its installation is broken" in str(caught.value)
    said = [entry for entry in logs if entry["event"] == "world_engine_said"]
    assert {entry["text"] for entry in said} == {"what the engine says"}
    assert {entry["part"] for entry in said} <= {"actor.world.host", "actor.world.grade"}


BROKEN_ENGINE = """#!/bin/sh
echo 'Traceback (most recent call last):'
echo "ModuleNotFoundError: No module named 'munch'"
exit 1
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (BROKEN_ENGINE, "its last words: ModuleNotFoundError: No module named 'munch'"),
        ("no program", "Exec format error"),
    ],
)
def test_an_engine_that_cannot_start_is_named_by_its_last_line(world_root, tmp_path, text, told):
    python = tmp_path / "python"
    python.write_text(text)
    python.chmod(0o755)
    with pytest.raises(RunError, match=told) as caught:
        asyncio.run(WorldHost.start(WorldConfig(), python, world_root))
    assert "remove the folder that 'loop world install' names and run that again" in str(caught.value)
    assert "\n" not in str(caught.value)


WARMING = """#!{python}
import json, os, socket, sys, time
sys.path.insert(0, {folder!r})
from actor.world import frames

module, descriptor = sys.argv[-3], int(sys.argv[-2])
open(os.path.join({told!r}, str(os.getpid())), "w").close()
control = socket.socket(fileno=descriptor)
while os.path.exists({hold!r}):
    time.sleep(0.01)
if module in {warm!r}:
    word = {{"seconds": 0.0, "guards": ["no-network"]}}
    control.send(frames.pack(word) if module == "actor.world.grade" else json.dumps(word).encode())
asked = []
while (message := socket.recv_fds(control, 1 << 16, 4))[0]:
    asked.append(message)  # a world that never opens
"""


def warming(tmp_path, monkeypatch, warm):
    """A python, the folder where its processes leave their ids, and that of scratch.

    They never get warm, but for those of the modules `warm`, which wait while there is a file `hold` in `tmp_path`.
    """
    told, scratch, python = tmp_path / "told", tmp_path / "scratch", tmp_path / "python"
    told.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    folder = str(Path(client.__file__).parents[2])
    hold = str(tmp_path / "hold")
    python.write_text(WARMING.format(python=sys.executable, folder=folder, told=str(told), warm=warm, hold=hold))
    python.chmod(0o755)
    return python, told, scratch


HOST, GRADER = "actor.world.host", "actor.world.grade"


@pytest.mark.parametrize("warm", [(), (HOST,), (GRADER,)])
def test_a_start_that_is_cancelled_while_host_and_grader_warm_up_leaves_nothing(
    world_root, tmp_path, monkeypatch, warm
):
    python, told, scratch = warming(tmp_path, monkeypatch, warm)
    said = {{HOST: "world_host_ready", GRADER: "world_grader_ready"}[module] for module in warm}

    async def cancelled():
        before = descriptors(os.getpid())
        with capture_logs() as logs:
            starting = asyncio.create_task(WorldHost.start(WorldConfig(), python, world_root))
            async with asyncio.timeout(60):
                while len(list(told.iterdir())) < 2 or not said <= {one["event"] for one in logs}:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert [folder.name.startswith("loop-world-") for folder in scratch.iterdir()] == [True]
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
        return before, descriptors(os.getpid())

    before, after = asyncio.run(cancelled())
    pids = [int(file.name) for file in told.iterdir()]
    assert len(pids) == 2
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert list(scratch.iterdir()) == []
    assert after == before


def test_a_start_that_is_cancelled_at_any_moment_leaves_nothing(world_root, tmp_path, monkeypatch):
    """Amid the making of its processes, too."""
    python, told, scratch = warming(tmp_path, monkeypatch, ())

    async def cancelled(passes):
        starting = asyncio.create_task(WorldHost.start(WorldConfig(), python, world_root))
        for _ in range(passes):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting

    async def all_of_them():
        before = descriptors(os.getpid())
        for passes in range(1, 13):
            await cancelled(passes)
        return before, descriptors(os.getpid())

    children = sorted(children_of(os.getpid()))
    before, after = asyncio.run(all_of_them())
    assert sorted(children_of(os.getpid())) == children
    assert [file.name for file in told.iterdir() if Path(f"/proc/{file.name}").exists()] == []
    assert list(scratch.iterdir()) == []
    assert after == before


def test_who_gives_up_waiting_for_a_host_that_warms_up_does_not_end_it(world_root, tmp_path, monkeypatch):
    """Nor do its seconds count as a world's: else a machine too busy to warm it up in time would never have one."""
    python, told, _ = warming(tmp_path, monkeypatch, (HOST, GRADER))
    hold, waiting = tmp_path / "hold", []

    async def scenario():
        host = await WorldHost.start(WorldConfig(open_seconds=0.1), python, world_root)
        hold.touch()
        host._host.process.kill()
        await host._host.process.process.wait()
        openings = [asyncio.create_task(host.open(check_root(world_root))) for _ in range(3)]
        async with asyncio.timeout(60):
            while len(list(told.iterdir())) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        openings[0].cancel()
        await asyncio.wait(openings, timeout=0.3)
        still = [opening.done() for opening in openings]
        waiting.append(host.waiting_for)
        hold.unlink()
        ends = await asyncio.gather(*openings, return_exceptions=True)
        waiting.append(host.waiting_for)
        alive = host._host.process.alive
        await host.close()
        return still, ends, alive, host.restarts

    with capture_logs() as logs:
        still, ends, alive, restarts = asyncio.run(scenario())
    assert still == [True, False, False]
    assert waiting == ["the worlds' host, which died and starts again", ""]
    assert [type(end) for end in ends] == [asyncio.CancelledError, WorldFailure, WorldFailure]
    assert str(ends[1]).endswith(": it took too long")
    assert (alive, restarts, len(list(told.iterdir()))) == (True, 1, 3)
    assert [one["event"] for one in logs].count("world_host_died") == 1


def test_worlds_that_close_end_a_host_that_warms_up(world_root, tmp_path, monkeypatch):
    python, told, scratch = warming(tmp_path, monkeypatch, (HOST, GRADER))

    async def scenario():
        host = await WorldHost.start(WorldConfig(), python, world_root)
        (tmp_path / "hold").touch()
        host._host.process.kill()
        await host._host.process.process.wait()
        opening = asyncio.create_task(host.open(check_root(world_root)))
        async with asyncio.timeout(60):
            while len(list(told.iterdir())) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await host.close()
        return (await asyncio.gather(opening, return_exceptions=True))[0]

    assert isinstance(asyncio.run(scenario()), WorldFailure)
    assert [file.name for file in told.iterdir() if Path(f"/proc/{file.name}").exists()] == []
    assert list(scratch.iterdir()) == []


ORPHAN = """
import asyncio, os, signal, sys
from pathlib import Path
from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from actor.world.root import check_root

async def main(python, root):
    host = await WorldHost.start(WorldConfig(), python, root)
    opened = [await host.open(check_root(root)) for _ in range(4)]
    asyncio.create_task(opened[0].execute("while True: pass"))
    await opened[1].execute("print(1)")
    print(host._scratch, host._host.process.process.pid, host._grader._process.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_a_client_that_is_killed_leaves_no_process_and_no_file(appworld_python, world_root):
    done = subprocess.run(
        [sys.executable, "-c", ORPHAN, appworld_python, world_root], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    scratch, host, grader = done.stdout.split()[-3:]
    for pid in (int(host), int(grader)):
        with contextlib.suppress(ProcessLookupError):
            ended = os.pidfd_open(pid)
            assert select.select([ended], [], [], 60)[0], f"process {pid} goes on without its client"
            os.close(ended)
    assert list(Path(scratch).iterdir()) == []
    Path(scratch).rmdir()
