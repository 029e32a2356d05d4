"""`loop eval` ends as politely on SIGTERM as on Ctrl-C: its policy and worlds are closed, what is finished is kept."""

import asyncio
import os
import signal

import pytest

import actor.chosen_checkpoint
from actor import evaluate
from common.errors import RunError


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_closes_what_is_open_and_says_that_the_same_command_goes_on(monkeypatch, tmp_path, number):
    closed = []

    class Waiting:
        def __init__(self, *_):
            pass

        async def run(self):
            os.kill(os.getpid(), number)
            try:
                await asyncio.Event().wait()
            finally:
                closed.append(True)

    monkeypatch.setattr(evaluate, "Evaluation", Waiting)
    monkeypatch.setattr(actor.chosen_checkpoint, "choose", lambda _: None)
    before = {which: signal.getsignal(which) for which in (signal.SIGTERM, signal.SIGINT)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell starts what it puts into the background
    try:
        with pytest.raises(RunError, match="interrupted: what is finished is kept; the same command goes on"):
            evaluate.main(["--checkpoint", str(tmp_path), "--dataset", "train"])
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
    assert closed == [True]
