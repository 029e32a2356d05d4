"""A real engine whose process stands still, is killed or takes too long to start: found out, said, and none left."""

import asyncio
import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys

import pytest
from event_loop import Loop
from tiny_model import STOP, make_model

from actor.config import EngineConfig
from actor.engine import EngineFailure
from actor.policy import Policy

# warnings of vLLM's imports, and of the process that it forks
pytestmark = pytest.mark.filterwarnings("ignore")
LONG = 900  # tokens: nobody has sampled them before a signal arrives


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    yield make_model(tmp_path_factory.mktemp("model") / "m", 1)
    gc.collect()  # sockets that vLLM leaves open when an engine fails, while its warnings are ignored


def engines():
    """Processes of engines, as this one's children."""
    return [child for child in multiprocessing.active_children() if child.name.startswith("EngineCore")]


def start(folder, **settings):
    config = EngineConfig(dtype="float32", context_tokens=1024, kv_cache_megabytes=64, **settings)
    return Policy.start(folder, 0, config, mode="in_flight", slots=4, seed=1, stop_ids=[STOP])


async def failures_of(policy, signalled):
    """What two turns under way, and a third one afterwards, end with when the engine's process gets a signal."""
    await policy.use(0)
    turns = [asyncio.create_task(policy.generate([5, 9, first], temperature=1.0, max_tokens=LONG)) for first in (3, 4)]
    while policy.engine.under_way < len(turns):  # noqa: ASYNC110 - the engine tells nobody
        await asyncio.sleep(0)
    signalled()
    ended = await asyncio.gather(*turns, return_exceptions=True)
    return [*ended, *await asyncio.gather(policy.generate([5], temperature=1.0, max_tokens=1), return_exceptions=True)]


@pytest.mark.parametrize(
    ("number", "told"),
    [(signal.SIGSTOP, "the engine has not answered for 1 s"), (signal.SIGKILL, "the engine died")],
    ids=["stuck", "dead"],
)
def test_an_engine_whose_process_stands_still_or_is_killed_fails_all_its_requests_and_is_ended(folder, number, told):
    loop = Loop()
    policy = loop.run(start(folder, request_seconds=1.0))
    try:
        (process,) = engines()
        ended = os.pidfd_open(process.pid)
        found = loop.run(failures_of(policy, lambda: os.kill(process.pid, number)))
        assert [type(error) for error in found] == [EngineFailure] * 3
        assert [told in str(error) for error in found] == [True] * 3
    finally:
        loop.run(asyncio.to_thread(policy.stop))
        loop.close()
    assert select.select([ended], [], [], 20)[0], "its process goes on"
    os.close(ended)
    assert engines() == []


TOO_SLOW = """
import asyncio, multiprocessing, sys
from pathlib import Path
from actor.config import EngineConfig
from actor.engine import Engine

async def main():
    await Engine.prepare(EngineConfig())
    config = EngineConfig(dtype="float32", context_tokens=1024, kv_cache_megabytes=64, start_seconds=1.0)
    starting = asyncio.create_task(Engine.start(Path(sys.argv[1]), 0, config, slots=4, seed=1, stop_ids=[0]))
    while not multiprocessing.active_children() and not starting.done():
        await asyncio.sleep(0)
    if sys.argv[2] == "cancelled":
        starting.cancel()
    await asyncio.wait({starting})
    print("cancelled" if starting.cancelled() else starting.exception())
    print([child.name for child in multiprocessing.active_children()])

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("how", "told"),
    [
        pytest.param("late", "vLLM's engine did not start within 1 s", marks=pytest.mark.slow),
        ("cancelled", "cancelled"),
    ],
    ids=["late", "cancelled"],
)
def test_an_engine_that_loads_too_long_or_for_nobody_is_given_up_and_leaves_no_process(folder, how, told):
    """A process of its own, which joins its children when it ends: it would not end."""
    done = subprocess.run(
        [sys.executable, "-c", TOO_SLOW, folder, how], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == [told, "[]"]
