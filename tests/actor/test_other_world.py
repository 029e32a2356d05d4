"""A second world, in one file, is rolled out by the same actor: real episodes through the worker's own wiring."""

import pytest
from guessing import Guessing
from scene import live, make_worker, many
from scripted import STOP, letters, turn

from actor.world.config import WorldConfig
from actor.world_protocol import provider_of, worlds_of
from common.errors import UsageError
from common.messages import Goodbye, LeaseReturn, Trajectory
from common.task_ids import TaskList

NUMBERS = {"puzzle_1": 50, "puzzle_2": 12, "puzzle_3": 97}


@pytest.fixture
def root(tmp_path):
    (tmp_path / "tasks.txt").write_text("".join(f"{name} {number}\n" for name, number in NUMBERS.items()))
    return tmp_path


def play(scene, root, leases, *, until, says=None):
    """Has a worker roll out the leases. The policy halves what is left, or says the given cells in turn."""
    made = []
    scene.leases = leases
    scene.task_list = TaskList(NUMBERS)

    def provider(config):
        made.append(Guessing(config.model_copy(update={"root": root})))
        return made[-1]

    worker = make_worker(scene, root, provider=provider)
    scene.says = says or halve
    live(worker, until)
    return made[0]


def halve(ids):
    """Binary search by the observations in an episode's tokens, which are characters above 1000."""
    low, high = 0, 99
    text = "".join(chr(i - 1000) if i > 1000 else "\n" for i in ids)
    for line in text.splitlines():
        if line in ("higher", "lower"):
            middle = (low + high) // 2
            low, high = (middle + 1, high) if line == "higher" else (low, middle - 1)
    return turn(*letters(f"guess {(low + high) // 2}"), STOP)


def of(task_id, count=1):
    return [
        lease.model_copy(
            update={
                "lease_id": f"{task_id}.{lease.member}.{n}",
                "task_id": task_id,
                "sampling": lease.sampling.model_copy(update={"max_turns": 20, "max_context_tokens": 1000}),
            }
        )
        for n, lease in enumerate(many(count))
    ]


def test_its_episodes_are_played_graded_and_sent(scene, root):
    leases = [lease for task_id in NUMBERS for lease in of(task_id)]
    worlds = play(scene, root, leases, until=lambda: len(scene.of(Trajectory)) == 3)
    found = {t.lease.task_id: t for t in scene.of(Trajectory)}
    assert {task_id: (t.reward, t.success, t.tags) for task_id, t in found.items()} == dict.fromkeys(
        NUMBERS, (1.0, True, ("completed",))
    )
    # 0 to 99 by halves: 49, 74, 61, 55, 52, 50
    assert len(found["puzzle_1"].turns) == 6
    assert (worlds.open_games, worlds.started) == (0, False)


def test_what_its_grader_says_is_the_reward(scene, root):
    def stubborn(_ids):
        return turn(*letters("guess 12"), STOP)

    play(scene, root, of("puzzle_1") + of("puzzle_2"), until=lambda: len(scene.of(Trajectory)) == 2, says=stubborn)
    found = {t.lease.task_id: (t.reward, t.success, t.failures, t.tags) for t in scene.of(Trajectory)}
    assert found == {
        "puzzle_1": (pytest.approx(0.62), False, ("38 away",), ("killed_by_guesses", "killed")),
        "puzzle_2": (1.0, True, (), ("completed",)),
    }


def test_its_failures_cost_their_leases_alone(scene, root):
    def fragile(ids):
        return turn(*letters("break"), STOP) if not fragile.said else halve(ids)

    fragile.said = []

    def once(ids):
        answer = fragile(ids)
        fragile.said.append(1)
        return answer

    leases = of("puzzle_2", 2) + of("puzzle_7")
    play(scene, root, leases, until=lambda: scene.of(Trajectory) and len(scene.of(LeaseReturn)) == 2, says=once)
    assert {returned.reason for returned in scene.of(LeaseReturn)} == {
        "WorldFailure: the game broke",
        "UnusableTask: there is no puzzle puzzle_7",
    }
    assert [t.reward for t in scene.of(Trajectory)] == [1.0]


def test_its_own_check_is_asked_before_the_first_lease(scene, root):
    def provider(config):
        return Guessing(config.model_copy(update={"root": root}))

    scene.task_list = TaskList([*NUMBERS, "puzzle_8", "puzzle_9"])
    with pytest.raises(UsageError, match="there is no puzzle puzzle_8 "):
        live(make_worker(scene, root, provider=provider))
    assert scene.of(Goodbye)[0].reason == "there is no puzzle puzzle_8 (2 of 5 are missing)"


def test_the_option_names_it_by_module_and_name():
    assert provider_of("guessing:Guessing") is Guessing
    assert provider_of(WorldConfig().provider).__name__ == "AppWorlds"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere.at_all:Worlds", "No module named 'nowhere'"),
        ("guessing:Nothing", "has no attribute 'Nothing'"),
        ("guessing:MOST_GUESSES", "is not a class or function that takes the section `world`"),
    ],
)
def test_a_provider_that_is_none_is_named(name, problem):
    with pytest.raises(UsageError, match=f"world.provider: {name}.*{problem}"):
        provider_of(name)


def test_worlds_that_lack_a_part_are_refused_with_its_name():
    class Half:
        waiting_for = ""

        def __init__(self, config):
            pass

        async def open(self, task_id):
            pass

        async def close(self):
            pass

    with pytest.raises(UsageError, match=r"^world\.provider: its Half has no check, start; see actor/world_protocol"):
        worlds_of(Half, WorldConfig())
