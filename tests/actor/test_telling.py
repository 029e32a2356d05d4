"""What an actor tells systemd, look by look, on a clock that the test sets; the standing is the real one."""

from types import SimpleNamespace

import pytest
from scene import live, make_worker, many

import actor.worker
from actor.config import ActorConfig, EngineConfig, WorldConfig
from actor.telling import WAITING_SECONDS, Telling, longest_stillness
from common.messages import Trajectory

STILLNESS = 100.0


class Recorder:
    """A notifier whose words are kept."""

    is_heard, watchdog_seconds = True, 60.0

    def __init__(self):
        self.said = []

    def take(self):
        said, self.said = self.said, []
        return said

    def ready(self):
        self.said.append("ready")

    def alive(self):
        self.said.append("alive")

    def status(self, text):
        self.said.append(("status", text))

    def extend(self, seconds):
        self.said.append(("extend", seconds))

    def stopping(self):
        self.said.append("stopping")


class Scene:
    """An actor's standing, as far as it is looked at."""

    def __init__(self):
        self.now = 0.0
        self.notifier = Recorder()
        self.standing = SimpleNamespace(
            leases=SimpleNamespace(running=0),
            policy=SimpleNamespace(sampled_tokens=0),
            versions=SimpleNamespace(is_fetching=False),
            outbox=SimpleNamespace(waits_for_room=False),
            worlds=SimpleNamespace(waiting_for=""),
            version=3,
            lease_ids=(),
            waiting_for="",
        )
        self.telling = Telling(self.notifier, self.standing, STILLNESS, clock=lambda: self.now)

    def at(self, seconds):
        """What is said at a look then, but for the status."""
        self.now = seconds
        self.telling.look()
        return [said for said in self.notifier.take() if said[0] != "status"]

    def works(self, *, running):
        self.telling.works()
        self.standing.leases.running = running
        self.standing.lease_ids = tuple(f"g1.{member}.0" for member in range(running))
        self.notifier.take()


@pytest.fixture
def scene_of_one():
    return Scene()


def test_while_it_waits_for_the_learner_it_asks_for_more_time_again_and_again(scene_of_one):
    waits = ("extend", WAITING_SECONDS)
    assert scene_of_one.at(0.0) == [waits, "alive"]
    assert scene_of_one.at(1.0) == ["alive"]
    assert scene_of_one.at(WAITING_SECONDS / 2 + 1) == [waits, "alive"]
    assert scene_of_one.at(86_400.0) == [waits, "alive"]


def test_a_start_gets_the_time_that_it_may_take_and_no_sign_of_life_beyond(scene_of_one):
    scene_of_one.telling.takes(900.0)
    assert scene_of_one.notifier.take() == [("extend", 960.0)]
    assert scene_of_one.at(959.0) == ["alive"]
    assert scene_of_one.at(961.0) == []


def test_ready_is_said_when_it_works(scene_of_one):
    scene_of_one.at(0.0)
    scene_of_one.telling.works()
    assert scene_of_one.notifier.take() == ["ready"]


def test_signs_of_life_stop_when_nothing_moves_though_the_loop_lives(scene_of_one):
    scene_of_one.works(running=4)
    assert scene_of_one.at(0.0) == ["alive"]
    assert scene_of_one.at(STILLNESS - 1) == ["alive"]
    assert scene_of_one.at(STILLNESS + 1) == []
    assert scene_of_one.at(10 * STILLNESS) == []
    scene_of_one.standing.policy.sampled_tokens += 1
    assert scene_of_one.at(10 * STILLNESS + 1) == ["alive"]


@pytest.mark.parametrize("what", ["sampled_tokens", "version", "lease_ids"])
def test_each_kind_of_move_counts(scene_of_one, what):
    scene_of_one.works(running=4)
    scene_of_one.at(0.0)
    for look in range(1, 6):
        if what == "sampled_tokens":
            scene_of_one.standing.policy.sampled_tokens += 10
        elif what == "version":
            scene_of_one.standing.version += 1
        else:
            scene_of_one.standing.lease_ids = (f"g{look}.0.0",)
        assert scene_of_one.at(look * STILLNESS * 0.9) == ["alive"]


@pytest.mark.parametrize("reason", ["no lease", "files under way", "a full disk", "worlds that start again"])
def test_there_is_no_move_to_expect_while_there_is_nothing_to_do(scene_of_one, reason):
    scene_of_one.works(running=0 if reason == "no lease" else 4)
    scene_of_one.standing.versions.is_fetching = reason == "files under way"
    scene_of_one.standing.outbox.waits_for_room = reason == "a full disk"
    scene_of_one.standing.worlds.waiting_for = "the host" * (reason == "worlds that start again")
    for look in range(5):
        assert scene_of_one.at(look * 3 * STILLNESS) == ["alive"]


def test_the_status_says_what_it_does_and_what_it_waits_for(scene_of_one):
    scene_of_one.standing.waiting_for = "the learner"
    scene_of_one.telling.look()
    assert ("status", "waits for the learner") in scene_of_one.notifier.take()
    scene_of_one.works(running=4)
    scene_of_one.standing.waiting_for = "a new version"
    scene_of_one.telling.look()
    assert ("status", "rolls out 4 episodes on version 3; waits for a new version") in scene_of_one.notifier.take()


def test_what_stands_still_for_the_longest_has_passed_every_limit_of_its_own():
    world = WorldConfig(open_seconds=7.0, cell_seconds=5.0, grade_seconds=3.0)
    assert longest_stillness(world, ActorConfig(engine=EngineConfig(request_seconds=11.0))) > 7.0 + 5.0 + 3.0 + 11.0


def test_an_actor_is_ready_after_the_handshake_the_engine_and_the_worlds_and_says_that_it_stops(
    scene, tmp_path, monkeypatch
):
    recorder = Recorder()
    monkeypatch.setattr(actor.worker, "Notifier", lambda: recorder)
    scene.leases = many(2)
    at_start = []

    async def note(what):
        at_start.append((what, "ready" in recorder.said, len(scene.seen) > 0))

    scene.on_start, scene.on_worlds = lambda: note("engine"), lambda: note("worlds")
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 2)
    assert sorted(at_start) == [("engine", False, True), ("worlds", False, True)]
    assert recorder.said.count("ready") == 1
    assert recorder.said.index("ready") < recorder.said.index("stopping")
    assert recorder.said[-1] == "stopping"


def test_a_run_that_is_over_before_the_actor_is_ready_is_no_failed_start(scene, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(actor.worker, "Notifier", lambda: recorder)
    scene.finished = True
    live(make_worker(scene, tmp_path))
    assert [said for said in recorder.said if said in ("ready", "stopping")] == ["ready", "stopping"]


def test_an_actor_that_fails_as_it_starts_was_never_ready(scene, tmp_path, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(actor.worker, "Notifier", lambda: recorder)

    async def fail():
        from common.errors import UsageError

        raise UsageError("no such argument")

    scene.on_start = fail
    from common.errors import UsageError

    with pytest.raises(UsageError):
        live(make_worker(scene, tmp_path))
    assert "ready" not in recorder.said
    assert recorder.said[-1] == "stopping"
