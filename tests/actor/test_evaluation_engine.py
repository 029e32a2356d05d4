"""`loop eval` whose engine fails: started again with what has no result yet, as often as an actor would."""

import asyncio
from types import SimpleNamespace

import pytest

import actor.world.install
from actor.config import ActorConfig
from actor.engine import EngineFailure
from actor.evaluate import Evaluation
from actor.evaluate_config import EvaluateConfig
from actor.evaluation import Finished, Job, Records
from actor.world.client import WorldHost
from common.config import Loaded
from common.errors import RunError
from common.prompt import Prompt

JOBS = [Job(0, "pay_1"), Job(0, "pay_2"), Job(0, "pay_3")]
KEPT = "what is finished is kept: the same command goes on"


class Worlds:
    closed = 0

    async def close(self):
        self.closed += 1


class Scene:
    """Engines of which each ends as `lives` says: an error of its start, or tasks that it plays and then an error."""

    def __init__(self, monkeypatch, tmp_path, *lives):
        self.lives, self.worlds, self.stopped = list(lives), Worlds(), 0
        self.records = Records(tmp_path, {"name": "e"})
        self.evaluation = Evaluation.__new__(Evaluation)
        actor_config = ActorConfig(name="a", engine={"starts": 3})
        self.evaluation._loaded = Loaded({"actor": actor_config, "prompt": None, "world": None})
        self.evaluation._config = EvaluateConfig(temperature=0.0)
        self.evaluation._chosen = SimpleNamespace(full=tmp_path, version=3)
        self.evaluation._limits = {"max_turns": 3, "max_turn_tokens": 9, "max_context_tokens": 99}
        self.evaluation.root, self.evaluation.out, self.evaluation.name = tmp_path, tmp_path, "e"
        self.evaluation._start_policy = self.start_policy
        self.waits, self.warm = [], asyncio.Event()
        monkeypatch.setattr(WorldHost, "start", self.start_worlds)
        monkeypatch.setattr(Prompt, "load", lambda *_: SimpleNamespace(stop_ids=(1,)))
        monkeypatch.setattr(actor.world.install, "appworld_python", lambda: None)
        monkeypatch.setattr(actor.evaluation, "play_all", self.play_all)
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds):
        self.waits.append(seconds)

    async def start_worlds(self, *_, **__):
        self.warm.set()
        return self.worlds

    async def start_policy(self, _):
        await self.warm.wait()
        if isinstance(self.lives[0], Exception):
            raise self.lives.pop(0)
        return SimpleNamespace(context_tokens=99, stop=self.stop)

    def stop(self):
        self.stopped += 1

    async def play_all(self, jobs, _terms, records, _parts, on_finished):
        count, error = self.lives.pop(0)
        for job in [job for job in jobs if job not in records.finished][:count]:
            one = Finished(job.task_id, 0, True, 1.0, 3, 1, 5, (), (), 1, 0.1)
            records.add(one)
            on_finished(one)
        if error is not None:
            raise error
        return []

    def play(self):
        return asyncio.run(self.evaluation._play(JOBS, self.records))


def test_an_engine_that_dies_is_started_again_and_what_is_left_is_played(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, (1, EngineFailure("dead")), (2, None))
    assert scene.play() == []
    assert sorted(scene.records.finished) == JOBS
    assert (scene.stopped, scene.worlds.closed, scene.waits) == (2, 1, [0.0])


def test_a_start_that_fails_after_a_failure_is_tried_again_later(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, (1, EngineFailure("dead")), RunError("no memory"), (2, None))
    assert scene.play() == []
    assert (scene.stopped, scene.worlds.closed, scene.waits) == (2, 1, [0.0, 4.0])


def test_an_engine_that_does_not_start_at_all_ends_the_evaluation_at_once(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, RunError("no such model"))
    with pytest.raises(RunError, match=r"^no such model$"):
        scene.play()
    assert (scene.stopped, scene.worlds.closed, scene.waits) == (0, 1, [])


def test_an_engine_that_fails_too_often_ends_it_and_the_finished_are_kept(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path, *[(1, EngineFailure("dead")), (0, EngineFailure("dead"))] * 2)
    with pytest.raises(RunError, match=f"failed 3 times in a row, last: dead; the log has why; {KEPT}"):
        scene.play()
    assert sorted(scene.records.finished) == JOBS[:2]
    assert (scene.stopped, scene.worlds.closed) == (3, 1)
