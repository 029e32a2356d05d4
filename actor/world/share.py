"""Work shared out between forked processes: the generator's one way to use both cores. Standard library only."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

STARTED = time.clock_gettime(time.CLOCK_MONOTONIC)
SAY_EVERY = 50  # items between two lines of progress


def say(event: str, **fields: Any) -> None:
    """One line of progress for the process that started this one."""
    elapsed = round(time.clock_gettime(time.CLOCK_MONOTONIC) - STARTED, 1)  # an open world freezes the other clocks
    print(json.dumps({"event": event, **fields, "seconds": elapsed}), flush=True)  # noqa: T201 - standard output is the channel


def in_child(job: Callable[[], Any]) -> Any:
    """Runs `job` in a forked child; returns what it returned, by way of JSON. RuntimeError: what it raised."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _answer(write, job)
    os.close(write)
    return _result(pid, read)


def share(name: str, items: Sequence[Any], workers: int, job: Callable[[Any], Any]) -> list[Any]:
    """`job` of every item, in forked workers; the results in the items' order, by way of JSON.

    Says `name` with done and of. RuntimeError: what the first failing job raised.
    """
    progress, tick = os.pipe()
    children = []
    for worker in range(workers):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            os.close(progress)  # while a worker held it, no worker would notice that nobody reads any more
            _answer(write, partial(_work, items[worker::workers], job, tick))
        os.close(write)
        children.append((pid, read))
    os.close(tick)
    done = 0
    while count := len(os.read(progress, 4096)):
        before, done = done, done + count
        if before // SAY_EVERY < done // SAY_EVERY or done == len(items):
            say(name, done=done, of=len(items))
    os.close(progress)
    shares = [_result(pid, read) for pid, read in children]
    results: list[Any] = [None] * len(items)
    for worker, found in enumerate(shares):
        results[worker::workers] = found
    return results


def _work(items: Sequence[Any], job: Callable[[Any], Any], tick: int) -> list[Any]:
    results = []
    try:
        for item in items:
            results.append(job(item))
            os.write(tick, b".")
    finally:
        os.close(tick)  # the parent reads the results only when nobody ticks any more
    return results


def _answer(pipe: int, job: Callable[[], Any]) -> None:
    try:
        result = {"value": job()}
    except BaseException as error:  # noqa: BLE001 - everything is reported, nothing may run on in the child
        detail = str(error) if isinstance(error, RuntimeError) else "".join(traceback.format_exception(error))
        result = {"error": detail.strip() or repr(error)}
    with os.fdopen(pipe, "w") as stream:
        json.dump(result, stream)
    os._exit(0)


def _result(pid: int, pipe: int) -> Any:
    with os.fdopen(pipe) as stream:
        text = stream.read()
    os.waitpid(pid, 0)
    result = json.loads(text) if text else {"error": "a worker of the world's generator died"}
    if "error" in result:
        raise RuntimeError(result["error"])
    return result["value"]
