"""`loop status` against a real gateway: answered, unreachable, not let in; and on while the gateway restarts."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from contextlib import aclosing
from functools import partial
from pathlib import Path

import pytest
from gateway_builders import actor_link, make_keys
from rich.console import Console
from test_messages import example_of
from test_process import Process
from test_service import beat, serving

from common import cli, status
from common.errors import RunError, UsageError
from common.keys import actor_keys, new_keys
from common.link import ActorLink
from common.messages import Hello, Refused, Status
from common.status_messages import ActorStatus, GroupStatus, LagTally, LoggedError
from common.status_view import view
from learner.gateway.trainer_beats import TrainerBeats


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(status, "LEAST_PATIENCE", 0.2)
    monkeypatch.setattr(status, "configure", lambda *_, **__: None)  # the tests' own log stays


async def loop_status(*words: object) -> int:
    """The command, in a thread beside the gateway's loop."""
    return await asyncio.wait_for(asyncio.to_thread(cli.main, ["status", *map(str, words)]), 30)


def test_a_run_folder_is_enough_to_ask_how_it_does(tmp_path: Path, capsys) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link, _), actor_link(link) as actor:
            await actor.connect()
            await actor.request(beat())
            assert await loop_status(tmp_path, "--json") == 0
            told = json.loads(capsys.readouterr().out.splitlines()[-1])
            assert told["policy_version"] == 0
            assert [one["name"] for one in told["actors"]] == ["actor-0"]
            assert told["books"]["balanced"]
            assert await loop_status(tmp_path) == 0
            shown = capsys.readouterr().out
            assert told["run_id"] in shown
            assert "actor-0" in shown

    asyncio.run(check())


def test_an_actors_machine_asks_with_its_own_key_while_its_actor_works_on(tmp_path: Path, capsys) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, link, keys), actor_link(link) as actor:
            await actor.connect()
            there = tmp_path / "there"
            (there / "actors").mkdir(parents=True)
            for name in ("actor-0.secret", "learner.public"):
                (there / name).write_bytes((keys / name).read_bytes())
            (there / "actor-0.secret").chmod(0o600)
            words = ("--link.host", "127.0.0.1", "--link.port", link.port, "--link.keys", there)
            for _ in range(6):  # more than a name may have connections at a time
                assert await loop_status(*words, "--json") == 0
            assert json.loads(capsys.readouterr().out.splitlines()[-1])["connections_cut"] == 0
            await actor.request(beat())

    asyncio.run(check())


def test_a_key_that_is_not_listed_is_named(tmp_path: Path, capsys) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (_, _, keys):
            (keys / "actors" / "actor-0.public").rename(tmp_path / "taken-off")
            await asyncio.sleep(1.1)  # the list is looked at once a second
            assert await loop_status(tmp_path, "--key", "actor-0") == 1
            told = capsys.readouterr().err
            assert re.search(r"does not list the key actor-0 \(fingerprint \w{16}\): put actor-0.public into", told)

    asyncio.run(check())


def test_the_learners_own_key_asks_and_is_no_actors(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path) as (_, link, keys):
            assert await loop_status(tmp_path, "--key", "learner", "--json") == 0
            hello = example_of(Hello).model_copy(update={"actor": "learner"})
            made = ActorLink(link, actor_keys(keys, "learner"), lambda: hello)
            with pytest.raises(RunError, match="refused learner"):
                await made.connect()
            await made.close()

    asyncio.run(check())


def test_an_unreachable_learner_is_one_line_and_exit_1(tmp_path: Path, capsys) -> None:
    make_keys(tmp_path / "keys", "actor-0")
    (tmp_path / "gateway.json").write_text('{"host": "0.0.0.0", "port": 9, "files_port": 8, "pid": 1}')
    assert cli.main(["status", str(tmp_path), "--link.heartbeat_seconds", "0.1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"loop status: no answer from the learner at tcp://127\.0\.0\.1:9, tried for \d\.\d s: is it", line)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no gateway.json in it: no learner has listened there"),
        (["--key"], "--key: a value is missing"),
        (["--link.port", "7", "--link.keys", "none"], "none: no such folder of keys"),
        (["--link.port", "7", "--link.keys", "empty"], "empty: no secret key there"),
        (["--link.port", "7", "--link.keys", "keys", "--key", "gpu-9"], "keys/gpu-9.secret: no key there"),
        (["--link.port", "7", "--link.keys", "half"], "half/learner.public: no key there"),
        (["--link.prt", "7"], "unknown option '--link.prt'; did you mean '--link.port'?"),
    ],
)
def test_what_is_missing_is_named_before_anything_is_asked(tmp_path: Path, monkeypatch, capsys, words, told) -> None:
    monkeypatch.chdir(tmp_path)
    new_keys(tmp_path / "keys", "learner")
    (tmp_path / "empty").mkdir()
    new_keys(tmp_path / "half", "gpu-1")
    assert cli.main(["status", *words]) == 2
    assert capsys.readouterr().err.startswith(f"loop status: {told}")


def test_an_address_file_that_is_torn_is_named(tmp_path: Path) -> None:
    (tmp_path / "gateway.json").write_text('{"host": "127.0')
    with pytest.raises(UsageError, match=r"gateway\.json: does not say where the learner listens"):
        status.main([str(tmp_path)])


def test_watching_goes_on_through_the_gateways_end_and_its_restart(tmp_path: Path) -> None:
    make_keys(tmp_path / "keys", "actor-0")
    process = Process(tmp_path)

    async def check() -> None:
        process.start()
        process.link()
        words, folder, key = status._take_words([str(tmp_path), "--config", str(tmp_path / "config.yaml")])
        loaded, _ = status.parse_command_line(status.SECTIONS, words, usage="", flags=status.FLAGS)
        where = status.Where(loaded, folder, key, explicit=False)
        async with aclosing(status._answers(where)) as answers:
            first = await anext(answers)
            words = [sys.executable, "-m", "common.cli", "status", str(tmp_path), "--json", "--link.keys"]
            run = partial(subprocess.run, capture_output=True, text=True, timeout=30, check=True)
            done = await asyncio.to_thread(run, [*words, str(tmp_path / "keys")])
            assert json.loads(done.stdout)["run_id"] == first.run_id, "one object and nothing else"
            process.end()
            assert "no answer from the learner" in str(await anext(answers))
            process.start()
            while isinstance(again := await anext(answers), RunError):
                assert "no answer from the learner" in str(again)
            assert first.run_id == again.run_id

    try:
        asyncio.run(asyncio.wait_for(check(), 60))
    finally:
        process.end()


def test_the_trainers_beats_say_what_it_is_at(tmp_path: Path) -> None:
    async def check() -> None:
        async with serving(tmp_path, "actor-0") as (gateway, _, _):
            beats = TrainerBeats(tmp_path, 60.0, "load_model")
            for doing, step in (("wait", 3), ("forward_backward", 3)):
                beats.at(doing, step)
                # nothing to wait on: the thread speaks when it comes to it
                while (told := gateway.status.picture().trainer).doing != doing:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
                assert (told.step, told.heard_seconds < 60.0) == (step, True)
            await asyncio.to_thread(beats.close)

    asyncio.run(asyncio.wait_for(check(), 30))


def example() -> Status:
    def of(kind, **changes):
        return kind(**{name: field.examples[0] for name, field in kind.model_fields.items()} | changes)

    return example_of(Status).model_copy(
        update={
            "actors": (of(ActorStatus), of(ActorStatus, name="gpu-3", state="silent", waiting_for="[red]its learner")),
            "oldest_groups": (of(GroupStatus),),
            "trained_lags": (LagTally(lag=0, trajectories=12), LagTally(lag=1, trajectories=3)),
            "errors": (of(LoggedError),),
        }
    )


def shown(**changes: object) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(view(example().model_copy(update=changes)))
    return captured.get()


def test_the_picture_shows_each_part_of_it() -> None:
    text = shown()
    for part in (
        "step 41 waits for 2 groups: task 3a_1 has 4 of 6, oldest lease 3m12s on actor gpu-2",
        "the trainer has said nothing for 3m00s, was in forward_backward of step 41",
        "40, published 33s ago",
        "lag 1: █████ 3 trajectories",
        "[red]its learner",
        "3m12s",
        "lease_lapsed",
        "46.6 GiB free, the run takes 1.0 GiB",
    ):
        assert part in text, part
    assert "they do NOT balance" not in text
    assert "they do NOT balance" in shown(books=example().books.model_copy(update={"balanced": False}))


def test_a_refusal_is_told_as_it_was_said() -> None:
    from common.status_link import StatusLink

    link = StatusLink(status.LinkConfig(port=9), None)
    with pytest.raises(RunError, match="does not say how it does: protocol 7 there, 6 here"):
        link._status_in(Refused(reason="protocol 7 there, 6 here"))
    link.close()
