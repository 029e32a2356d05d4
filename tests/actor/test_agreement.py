"""Learner and worlds agree on the tasks before the first lease, and again when the learner's lists are others."""

import asyncio

import pytest
from scene import Worlds, live, make_worker, many

import actor.worker
from actor.agreement import Agreement, fetch_task_ids
from common.errors import RunError, UsageError
from common.messages import (
    Goodbye,
    Heartbeat,
    HeartbeatReply,
    LeaseRequest,
    LeaseReturn,
    TaskIds,
    TaskIdsRequest,
    Trajectory,
)
from common.task_ids import TaskList


def lacks(task_id):
    def check(task_ids):
        if task_id in task_ids:
            raise UsageError(f"1 of {len(task_ids)} tasks cannot be used: {task_id}: the root has no such task")

    return check


def test_all_tasks_that_may_be_asked_for_are_checked_before_a_lease_is(scene, tmp_path):
    scene.leases = many(1)
    live(make_worker(scene, tmp_path), lambda: scene.of(Trajectory))
    assert scene.checked == [["pay_1", "pay_2"]]
    kinds = [type(message) for message in scene.seen]
    assert kinds.index(TaskIdsRequest) < kinds.index(LeaseRequest)


def test_an_actor_that_lacks_a_task_works_on_none_and_tells_the_learner_which(scene, tmp_path):
    scene.leases = many(4)
    scene.on_check = lacks("pay_2")
    ended = []

    async def warm_up():  # beside the check, and for longer
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("warming up")

    scene.on_worlds = warm_up
    with pytest.raises(UsageError, match="pay_2: the root has no such task"):
        live(make_worker(scene, tmp_path))
    assert ended == ["warming up"]
    assert scene.of(LeaseRequest) == []
    (goodbye,) = scene.of(Goodbye)
    assert goodbye.reason == "1 of 2 tasks cannot be used: pay_2: the root has no such task"


def test_a_learner_that_comes_again_with_other_lists_is_agreed_with_again(scene, tmp_path):
    scene.leases = many(1)
    scene.on_check = lacks("pay_9")

    def changed():
        if scene.of(Trajectory):
            scene.task_list = TaskList(["pay_1", "pay_9"])
        return False

    with pytest.raises(UsageError, match="pay_9"):
        live(make_worker(scene, tmp_path), changed)
    assert scene.checked == [["pay_1", "pay_2"], ["pay_1", "pay_9"]]


def test_a_lease_for_a_task_that_cannot_be_had_costs_that_lease_alone(scene, tmp_path):
    scene.leases = [lease.model_copy(update={"task_id": f"pay_{n}"}) for n, lease in enumerate(many(3))]
    scene.unusable = {"pay_1"}
    live(make_worker(scene, tmp_path), lambda: len(scene.of(Trajectory)) == 2 and scene.of(LeaseReturn))
    assert [(returned.lease_id, returned.reason, returned.failure) for returned in scene.of(LeaseReturn)] == [
        ("g1.1.0", "UnusableTask: there is no task pay_1", True)
    ]


def test_the_tasks_check_waits_while_vllms_import_has_the_interpreter(scene, tmp_path, monkeypatch):
    """What takes other processes, or the network, goes on meanwhile."""
    scene.leases = many(1)
    order = []

    async def warm_up():
        order.append("worlds warm up")

    class Importing:
        @staticmethod
        async def prepare(_config):
            order.append("import begins")
            while not (scene.of(TaskIdsRequest) and "worlds warm up" in order):  # noqa: ASYNC110 - plain lists
                await asyncio.sleep(0.001)
            beats = len(scene.of(Heartbeat))
            while len(scene.of(Heartbeat)) < beats + 5:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.001)
            order.append("import ends")

    scene.on_worlds = warm_up
    scene.on_check = lambda _: order.append("check")
    monkeypatch.setattr(actor.worker, "Engine", Importing)
    live(make_worker(scene, tmp_path), lambda: scene.of(Trajectory))
    assert order == ["import begins", "worlds warm up", "import ends", "check"]


def test_a_check_has_the_interpreter_for_itself_too(scene):
    listed = scene.task_list
    held = []

    async def request(message):
        return scene.answer(message)

    async def agree():
        alone = asyncio.Lock()
        scene.on_check = lambda _: held.append(alone.locked())
        agreement = Agreement(request, alone)
        await agreement.begin(Worlds(scene), listed.digest)
        scene.task_list = TaskList(["pay_9"])
        await agreement.renew(scene.task_list.digest)
        held.append(alone.locked())

    asyncio.run(agree())
    assert scene.checked == [["pay_1", "pay_2"], ["pay_9"]]
    assert held == [True, True, False]


def fetched(*answers):
    """What comes of these answers, one to a question; and which places were asked for."""
    left, asked = list(answers), []

    async def request(message):
        asked.append(message.begin)
        return left.pop(0)

    return asyncio.run(fetch_task_ids(request)), asked


def part(listed, begin, end):
    return TaskIds(tasks_digest=listed.digest, count=len(listed.task_ids), task_ids=listed.task_ids[begin:end])


OLD, NEW = TaskList([f"old_{n}" for n in range(5)]), TaskList([f"new_{n}" for n in range(3)])


def test_a_long_list_is_fetched_page_by_page():
    assert fetched(part(OLD, 0, 2), part(OLD, 2, 4), part(OLD, 4, 6)) == (list(OLD.task_ids), [0, 2, 4])


def test_a_list_that_changes_meanwhile_is_fetched_anew():
    assert fetched(part(OLD, 0, 2), part(NEW, 2, 4), part(NEW, 0, 2), part(NEW, 2, 4)) == (
        list(NEW.task_ids),
        [0, 2, 0, 2],
    )


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([part(OLD, 0, 2), part(OLD, 5, 7)], "ends after 2 of 5"),
        ([part(OLD, 0, 2), part(OLD, 0, 3)], "is not the one whose digest it tells"),
        (
            [HeartbeatReply(policy_version=0, manifest_digest="ab" * 32, credit_bytes=1)],
            "answered a question for task ids with HeartbeatReply",
        ),
    ],
)
def test_a_list_that_is_none_ends_the_actor_with_its_reason(answers, problem):
    with pytest.raises(RunError, match=problem):
        fetched(*answers)
