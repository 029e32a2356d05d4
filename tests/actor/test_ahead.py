"""What an actor does beside its slots: worlds that open ahead of them, verdicts that need none."""

import asyncio

from scene import Worlds, live, make_worker, many

from common.messages import Hello, LeaseReturn, Trajectory


class CountedWorlds(Worlds):
    """Worlds that count who opens them; verdicts may be held up."""

    def __init__(self, scene):
        super().__init__(scene)
        self.opened, self.graded = 0, asyncio.Event()

    async def open(self, task_id):
        self.opened += 1
        return await super().open(task_id)

    async def grade(self):
        await self.graded.wait()
        return await super().grade()


def actor_of(scene, tmp_path, **settings):
    worlds = CountedWorlds(scene)
    return make_worker(scene, tmp_path, provider=lambda _: worlds, **settings), worlds


def test_worlds_open_ahead_of_the_slots_and_nobody_samples_in_them_yet(scene, tmp_path):
    scene.leases = many(6)
    sampling = []

    async def stay():
        sampling.append(True)
        await asyncio.Event().wait()

    scene.on_generate = stay
    worker, worlds = actor_of(scene, tmp_path, episodes=2, ahead=3)
    live(worker, lambda: worlds.opened == 5 and len(sampling) == 2)
    assert (worlds.opened, len(sampling)) == (5, 2)
    assert scene.of(Hello)[0].slots == 5
    assert len(scene.of(LeaseReturn)) == 5


def test_an_episode_that_is_graded_needs_no_slot(scene, tmp_path):
    scene.leases = many(3)
    sampled = []

    async def note():
        sampled.append(True)

    scene.on_generate = note
    worker, worlds = actor_of(scene, tmp_path, episodes=1, ahead=2)

    def all_sampled():
        if len(sampled) == 3:
            worlds.graded.set()
        return len(scene.of(Trajectory)) == 3

    live(worker, all_sampled)
    assert {trajectory.reward for trajectory in scene.of(Trajectory)} == {1.0}


def test_with_one_slot_nothing_is_held_ahead(scene, tmp_path):
    """Which world is open first would decide who samples first: a run of one slot repeats."""
    scene.leases = many(3)
    worker, worlds = actor_of(scene, tmp_path, episodes=1)
    worlds.graded.set()
    live(worker, lambda: len(scene.of(Trajectory)) == 3)
    assert scene.of(Hello)[0].slots == 1
    assert [one.trajectory_id for one in scene.of(Trajectory)] == ["g1.0.0", "g1.1.0", "g1.2.0"]
