"""Opening, executing, grading."""

import asyncio
import json
import re

import pytest

from actor.world.client import Observation, UnusableTask, WorldFailure, WorldHost
from actor.world.config import WorldConfig
from actor.world.root import check_root
from common.errors import UsageError


def test_reference_solutions_get_the_full_reward(worlds):
    for task_id in worlds.tasks[:: max(1, len(worlds.tasks) // 6)]:
        observations, verdict = worlds.play(worlds.solution(task_id), task_id)
        assert verdict.success, (task_id, observations, verdict)
        assert verdict.reward == 1.0
        assert verdict.failures == ()
        assert observations[-1].completed
        assert not any(observation.failed for observation in observations)


def test_an_episode_without_a_cell_does_not_succeed(worlds):
    _, verdict = worlds.play([])
    assert not verdict.success
    assert verdict.reward < 1.0
    assert len(verdict.failures) > 0


def test_reward_is_the_share_of_tests_passed(worlds):
    _, verdict = worlds.play(["apis.supervisor.complete_task(answer='certainly not this')"])
    assert verdict.reward == len(verdict.passes) / (len(verdict.passes) + len(verdict.failures))


def test_variables_live_from_turn_to_turn(worlds):
    (_, second), _ = worlds.play(["x = 41", "print(x + 1)"])
    assert second == Observation("42\n", failed=False, completed=False)


def test_a_world_starts_without_the_variables_of_another_one(worlds):
    for name in ("x", "i"):  # the cells that warm the host up set these
        assert worlds.only(f"print({name})").text.endswith(f"NameError: name '{name}' is not defined")


def test_a_failing_cell_says_where_and_the_next_one_runs(worlds):
    (first, second), _ = worlds.play(["y = 1\n1 / 0", "print(y)"])
    assert first.failed
    assert first.text.startswith('Execution failed. Traceback:\n  File "<python-input>", line 2')
    assert first.text.endswith("ZeroDivisionError: division by zero")
    assert first.killed is None
    assert second.text == "1\n"


def test_printing_what_a_failure_prints_is_not_a_failure(worlds):
    assert not worlds.only("print('Execution failed. Traceback:')").failed


def test_completed_stays_true_after_complete_task(worlds):
    observations, _ = worlds.play(["print(1)", "apis.supervisor.complete_task(answer=1)", "print(2)"])
    assert [observation.completed for observation in observations] == [False, True, True]


def test_an_episode_can_look_up_the_documentation_of_every_app(worlds):
    cell = """
apps = [app['name'] for app in apis.api_docs.show_app_descriptions()]
print({app: len(apis.api_docs.show_api_descriptions(app_name=app)) for app in apps})
found = apis.api_docs.search_api_docs(query='alarm', page_limit=20)
print({doc['api_name']: doc['app_name'] for doc in found})
print(apis.api_docs.show_api_doc(app_name='phone', api_name='show_alarms'))
"""
    printed = re.findall(r"^\{.*?^\}", worlds.only(cell).text, re.MULTILINE | re.DOTALL)
    counts, alarms, doc = map(json.loads, printed)
    files = {file.stem: json.loads(file.read_text()) for file in worlds.root.glob("episode/data/api_docs/standard/*")}
    assert counts == {app: len(apis) for app, apis in files.items()}
    assert alarms["show_alarms"] == "phone"
    assert doc == {name: value for name, value in files["phone"]["show_alarms"].items() if name != "canary_string"}


def test_members_of_a_group_do_not_see_each_other(worlds):
    async def episodes():
        opened = await asyncio.gather(*(worlds.host.open(worlds.tasks[0]) for _ in range(6)))
        await asyncio.gather(*(world.execute(f"x = {number}") for number, world in enumerate(opened)))
        seen = await asyncio.gather(*(world.execute("print(x)") for world in opened))
        for world in opened:
            await world.close()
        return [observation.text for observation in seen]

    assert worlds.run(episodes()) == [f"{number}\n" for number in range(6)]


def test_64_worlds_of_several_tasks_at_once(worlds):
    async def episode(number):
        task_id = worlds.tasks[number % 8]
        world = await worlds.host.open(task_id)
        told = await world.execute("print(apis.supervisor.show_active_task()['instruction'])")
        for cell in worlds.solution(task_id):
            await world.execute(cell)
        return told.text.rstrip("\n") == world.task.instruction, await world.grade()

    async def episodes():
        return await asyncio.gather(*(episode(number) for number in range(64)))

    results = worlds.run(episodes())
    assert all(same for same, _ in results)
    assert all(verdict.success for _, verdict in results)


def test_the_same_cells_give_the_same_observations(worlds):
    chance, order = "import random\nprint(random.random())", "print(hash('a'), {'b', 'a', 'c'})"
    cells = [chance, *worlds.solution(worlds.tasks[1]), order]
    assert worlds.play(cells, worlds.tasks[1]) == worlds.play(cells, worlds.tasks[1])


def test_more_than_max_worlds_wait(appworld_python, world_root, worlds):
    async def scenario():
        host = worlds.host
        free = host._slots._value
        held = [await host.open(worlds.tasks[0]) for _ in range(2)]
        assert host._slots._value == free - 2
        for world in held:
            await world.close()
            await world.close()
        return host._slots._value == free

    assert worlds.run(scenario())


def test_an_unknown_task_is_named(worlds):
    for task_id in ("nothing_1", "../../full/data/tasks", "x"):
        with pytest.raises(UnusableTask, match="has no task"):
            worlds.run(worlds.host.open(task_id))


def test_a_closed_world_fails_instead_of_answering(worlds):
    async def scenario():
        world = await worlds.host.open(worlds.tasks[0])
        await world.close()
        await world.execute("print(1)")

    with pytest.raises(WorldFailure, match="is closed"):
        worlds.run(scenario())


def test_a_cancelled_turn_breaks_its_world_alone(worlds):
    async def scenario():
        world, other = await worlds.host.open(worlds.tasks[0]), await worlds.host.open(worlds.tasks[0])
        turn = asyncio.create_task(world.execute("while True: pass"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        turn.cancel()
        await asyncio.wait({turn})
        assert turn.cancelled()
        with pytest.raises(WorldFailure, match="is broken"):
            await world.execute("print(1)")
        await world.close()
        seen = await other.execute("print(1)")
        await other.close()
        return seen.text

    assert worlds.run(scenario()) == "1\n"


def test_a_folder_that_is_no_root_is_refused_by_name(tmp_path, appworld_python):
    with pytest.raises(UsageError, match="full/data/api_docs is missing"):
        asyncio.run(WorldHost.start(WorldConfig(), appworld_python, tmp_path))


def test_ground_truth_in_the_episode_root_is_refused(tmp_path):
    for part in ("full", "episode"):
        for inner in ("api_docs", "base_dbs", "datasets", "tasks/a_1/ground_truth"):
            (tmp_path / part / "data" / inner).mkdir(parents=True)
    with pytest.raises(UsageError, match="holds ground truth"):
        check_root(tmp_path)


def test_a_python_that_is_missing_is_named(tmp_path, world_root):
    with pytest.raises(UsageError, match="loop world install"):
        asyncio.run(WorldHost.start(WorldConfig(), tmp_path / "python", world_root))
