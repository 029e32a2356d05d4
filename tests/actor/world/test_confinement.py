"""Model-written code attacks what is outside of its process: nothing is reached, and the grade does not move."""

import asyncio
import os
import socket
import sys

import pytest
from structlog.testing import capture_logs

from actor.world.client import WorldHost
from actor.world.config import WorldConfig
from common.errors import RunError

MODULES = "m = datetime.sys.modules\n"
TRY = f"""{MODULES}
try:
    print('did', {{}})
except BaseException as error:
    print('refused', type(error).__name__, error)
"""


def attempt(worlds, expression):
    return worlds.only(TRY.format(expression)).text


@pytest.fixture
def truth(worlds):
    """The grader's own files of a task."""
    return worlds.root / "full" / "data" / "tasks" / worlds.tasks[0] / "ground_truth"


def test_all_guards_are_on_as_root(worlds, as_root):
    assert worlds.host.guards == ("limits", "no-network", "no-programs", "own-files", "own-uid")


@pytest.mark.parametrize(
    "reading",
    [
        "__import__('pathlib').Path({path!r}).read_text()",
        "getattr(m['_io'], 'open')({path!r}).read()",
        "m['_io'].FileIO({path!r}).read()",
        "getattr(m['posix'], 'open')({path!r}, 0)",
        "m['posix'].listdir({folder!r})",
        "m['posix'].scandir({folder!r})",
        "m['linecache'].getlines({path!r})[0]",
        "m['appworld.task'].Task.load({task!r}).ground_truth.answer",
        "m['appworld.ground_truth'].GroundTruth.load({task!r}).answer",
    ],
)
def test_ground_truth_is_out_of_reach(worlds, truth, reading):
    path = str(truth / "evaluation.py")
    seen = attempt(worlds, reading.format(path=path, folder=str(worlds.root / "full"), task=worlds.tasks[0]))
    assert seen.startswith("refused"), seen


def test_the_full_root_is_not_even_there(worlds, as_root):
    assert "No such file" in attempt(worlds, f"m['posix'].stat({str(worlds.root / 'full')!r})")


@pytest.mark.parametrize("path", ["/etc/passwd", "/proc/1/status", "/proc/self/environ", "/root/.bashrc", "/home"])
def test_the_rest_of_the_machine_is_not_there(worlds, as_root, path):
    assert "No such file" in attempt(worlds, f"getattr(m['posix'], 'open')({path!r}, 0)")


def test_nothing_can_be_written(worlds, as_root):
    for folder in ("/", "/tmp", "/usr/lib", str(worlds.root / "episode" / "data")):
        seen = attempt(worlds, f"m['_io'].FileIO({folder + '/x'!r}, 'w').write(b'x')")
        assert seen.startswith("refused"), (folder, seen)
    assert attempt(worlds, "m['_io'].FileIO('here', 'w').write(b'x')").startswith("refused PermissionError")


@pytest.mark.parametrize(
    "expression",
    [
        "m['socket'].socket()",
        "m['socket'].socket(m['socket'].AF_UNIX)",
        "m['socket'].create_connection(('127.0.0.1', {port}), 1)",
        "m['socket'].getaddrinfo('example.org', 80)",
    ],
)
def test_there_is_no_network(worlds, as_root, expression):
    with socket.create_server(("127.0.0.1", 0)) as server:
        seen = attempt(worlds, expression.format(port=server.getsockname()[1]))
    assert seen.startswith("refused"), seen


@pytest.mark.parametrize(
    "expression",
    [
        "m['posix'].posix_spawn('/bin/true', ['true'], {})",
        "m['posix'].execv(datetime.sys.executable, ['python', '-c', 'print(1)'])",
        "m['posix'].fork()",
        "m['_thread'].start_new_thread(print, ())",
    ],
)
def test_no_program_process_or_thread_is_started(worlds, as_root, expression):
    seen = attempt(worlds, expression)
    assert seen.startswith("refused"), seen


def test_no_shell_is_started(worlds, as_root):
    assert attempt(worlds, "m['posix'].system('true')") == f"did {127 << 8}\n"  # what libc says when it could not


def test_nobody_can_be_signalled(worlds, as_root):
    mine = os.getpid()
    for target in (mine, 1, -1, worlds.host._host.process.process.pid):
        assert attempt(worlds, f"m['posix'].kill({target}, 0)").startswith("refused PermissionError")


def test_members_have_user_ids_of_their_own_and_no_capabilities(worlds, as_root):
    async def scenario():
        opened = [await worlds.host.open(worlds.tasks[0]) for _ in range(2)]
        code = MODULES + "print(m['posix'].getresuid(), m['posix'].getresgid(), m['posix'].getgroups())"
        texts = [(await world.execute(code)).text for world in opened]
        for world in opened:
            await world.close()
        return texts

    first, second = worlds.run(scenario())
    assert first != second
    assert "0, 0, 0" not in first + second
    assert first.rstrip().endswith("[]")


def test_user_ids_cannot_be_taken_back(worlds, as_root):
    assert attempt(worlds, "m['posix'].setresuid(0, 0, 0)").startswith("refused PermissionError")


def test_the_environment_is_empty(worlds, monkeypatch):
    monkeypatch.setenv("SECRET", "s3cr3t")
    assert attempt(worlds, "dict(m['posix'].environ), dict(m['os'].environ)") == "did {} {}\n"
    assert "s3cr3t" not in attempt(worlds, "m['os'].environ")


def test_no_descriptor_but_its_own_is_inherited(worlds):
    code = """
found = []
for number in range(100):
    try:
        m['posix'].fstat(number)
        found.append(number)
    except OSError:
        pass
print(len(found))
"""
    assert worlds.only(MODULES + code).text == "4\n"  # three times null, and the socket of its member


WITHOUT_GUARDS = """#!{python}
import json, socket, struct, sys
sock = socket.socket(fileno=int(sys.argv[-2]))
told = json.dumps({{"ready": True, "seconds": 0.1, "guards": ["limits", "own-uid"]}}).encode()
sock.send(told if sys.argv[-3].endswith("host") else struct.pack("!II", len(told), 0) + told)
sock.recv(1)
"""


def test_without_confinement_it_refuses_to_run_when_told_to(world_root, tmp_path):
    python = tmp_path / "python"
    python.write_text(WITHOUT_GUARDS.format(python=sys.executable))
    python.chmod(0o755)
    config = WorldConfig(require_confinement=True)
    with pytest.raises(RunError, match="is without no-network, own-files, no-programs: no-network would take root"):
        asyncio.run(WorldHost.start(config, python, world_root))


def test_missing_guards_are_said_at_start(world_root, tmp_path):
    python = tmp_path / "python"
    python.write_text(WITHOUT_GUARDS.format(python=sys.executable))
    python.chmod(0o755)

    async def start():
        host = await WorldHost.start(WorldConfig(), python, world_root)
        await host.close()

    with capture_logs() as logs:
        asyncio.run(start())
    (ready,) = [entry for entry in logs if entry["event"] == "world_host_ready"]
    assert ready["guards"] == ["limits", "own-uid"]
    assert ready["missing"] == ["no-network", "own-files", "no-programs"]
