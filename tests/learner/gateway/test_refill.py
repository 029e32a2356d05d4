"""Groups without signal: counted, replaced within a step's limit, their tasks left out; the same after a restart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gateway_builders import begun_run, make_book, make_trajectory, publish_step, tell_desk, the_books

from common.messages import Lease
from common.metrics import MetricsReader
from common.wire import encode
from learner.gateway.run_state import RunState
from learner.gateway.trainer_port import Groups, NextGroups, Noted, Published, Resume, TrainerHello

SEVEN = ("a_1", "a_2", "b_1", "b_2", "c_1", "c_2", "d_1")


def begin(folder: Path, **changes: object) -> RunState:
    return begun_run(folder, groups_per_step=1, group_size=2, steps=9, **changes)


def roll_out(run: RunState, *rewards: float) -> list[Lease]:
    leases, _ = run.book.grant("actor-0", len(rewards), now=0.0)
    for lease, reward in zip(leases, rewards, strict=True):
        trajectory = make_trajectory(lease, reward=reward, version=run.policy_version)
        assert run.inbox.receive("actor-0", trajectory, encode(trajectory)).outcome == "ok"
    run.commit()
    return leases


def ids(leases: Iterable[Lease]) -> list[str]:
    return [lease.lease_id for lease in leases]


def handed(run: RunState, step: int) -> list[str]:
    answer = tell_desk(run, NextGroups(step=step))
    assert isinstance(answer, Groups), answer
    return [lease_id for group in answer.groups for lease_id in group.trajectory_ids]


def draws(folder: Path) -> list[dict]:
    return [event for event in MetricsReader(folder / "metrics.jsonl").new() if event["event"] == "draws"]


def test_a_whole_group_without_signal_is_replaced_by_another_draw(tmp_path: Path):
    run = begin(tmp_path, refill_most=2)
    first = roll_out(run, 1.0, 1.0)
    assert run.ledger.lease_state(first[0].lease_id) == ("dropped", "no_signal")
    assert run.book.take(1) == "1 group with signal; 1 without signal were replaced, 2 may be"
    second = roll_out(run, 0.0, 1.0)
    assert second[0].group_id == "g000001"
    assert handed(run, 1) == ids(second)
    found = the_books(tmp_path)
    assert found.balanced, found
    assert (found.dropped, found.pending) == ({"no_signal": 2}, {"handed": 2})
    run.close()


def test_a_step_goes_on_with_what_it_has_when_its_replacements_are_spent(tmp_path: Path):
    run = begin(tmp_path, refill_most=2)
    for _ in range(2):
        roll_out(run, 0.0, 0.0)
    assert run.book.take(1) == "1 group; 2 without signal were replaced, 2 may be"
    last = roll_out(run, 0.0, 0.0)
    assert handed(run, 1) == ids(last)
    publish_step(run, 1, dropped=ids(last))
    assert the_books(tmp_path).dropped == {"no_signal": 6}
    roll_out(run, 0.0, 0.0)
    assert run.book.history.refills(2) == 1, "the next step has its own replacements"
    run.close()


def test_groups_without_signal_are_not_replaced_unless_asked_for(tmp_path: Path):
    run = begin(tmp_path)
    leases = roll_out(run, 0.5, 0.5)
    assert handed(run, 1) == ids(leases)
    run.close()


def test_what_a_step_replaced_stays_replaced_when_the_trainer_loses_that_step(tmp_path: Path):
    run = begin(tmp_path, refill_most=1)
    trained = roll_out(run, 0.0, 1.0)
    handed(run, 1)
    publish_step(run, 1, ids(trained))
    dropped = roll_out(run, 0.0, 0.0)
    lost = roll_out(run, 1.0, 1.0)
    assert handed(run, 2) == ids(lost)
    publish_step(run, 2, dropped=ids(lost))
    tell_desk(run, TrainerHello(resume=Resume(policy_version=1, step=1, consumed=tuple(ids(trained)))))
    assert handed(run, 2) == ids(lost), "the same groups again, though they are without signal"
    assert run.ledger.lease_state(dropped[0].lease_id) == ("dropped", "no_signal")
    assert the_books(tmp_path).balanced
    run.close()


def test_groups_made_while_a_step_is_under_way_are_replaced_for_the_one_after_it(tmp_path: Path):
    run = begin(tmp_path, refill_most=1, staleness_bound=1)
    roll_out(run, 0.0, 1.0)
    handed(run, 1)
    roll_out(run, 0.0, 0.0)
    assert (run.book.history.refills(1), run.book.history.refills(2)) == (0, 1)
    run.close()


def test_a_groups_turns_are_fixed_when_it_is_drawn_and_grow_from_step_to_step(tmp_path: Path):
    horizon = {"max_turns": 9, "horizon_start": 3, "horizon_steps": 2, "staleness_bound": 1}
    run = begin(tmp_path, **horizon)
    first = roll_out(run, 0.0, 1.0)
    (early,), _ = run.book.grant("actor-0", 1, now=0.0)
    run.commit()
    handed(run, 1)
    publish_step(run, 1, ids(first))
    run.close()
    run = begin(tmp_path, **horizon)
    leases, _ = run.book.grant("actor-0", 3, now=0.0)
    assert [(lease.group_id, lease.sampling.max_turns) for lease in (early, *leases)] == [
        ("g000001", 3),
        ("g000001", 3),
        ("g000002", 6),
        ("g000002", 6),
    ]
    run.close()


def test_metrics_count_groups_without_signal_by_step_in_sum_and_by_task(tmp_path: Path):
    run = begin(tmp_path, refill_most=1, retire_after=1)
    replaced = roll_out(run, 0.0, 0.0)
    kept = roll_out(run, 1.0, 1.0)
    handed(run, 1)
    publish_step(run, 1, dropped=ids(kept))
    run.close()
    run = begin(tmp_path, refill_most=1, retire_after=1)
    passed_over = roll_out(run, 0.5, 0.505)  # too little for the trainer
    handed(run, 2)
    publish_step(run, 2, dropped=ids(passed_over))
    first, second = draws(tmp_path)
    tasks = [leases[0].task_id for leases in (replaced, kept, passed_over)]
    counted = ("step", "groups", "without_signal", "refilled", "without_signal_in_sum", "refilled_in_sum")
    assert [first[name] for name in counted] == [1, 1, 1, 1, 1, 1]
    assert first["tasks_without_signal"] == dict.fromkeys(sorted(tasks[:2]), 1)
    assert [second[name] for name in counted] == [2, 1, 1, 0, 2, 1]
    assert second["tasks_without_signal"] == {tasks[2]: 1}
    assert second["max_turns"] == 7
    assert set(second["retired"]) <= set(tasks)
    assert list(run.ledger.draws()) == run.book.history.draws()
    run.close()


def test_what_the_trainer_trained_on_had_signal_and_what_had_no_success_had_none(tmp_path: Path):
    """Expert iteration learns from groups whose every member succeeds."""
    run = begin(tmp_path)
    solved = roll_out(run, 1.0, 1.0)
    handed(run, 1)
    publish_step(run, 1, ids(solved))
    failed = roll_out(run, 0.25, 0.75)
    handed(run, 2)
    message = Published(
        policy_version=2,
        manifest_digest="02" * 32,
        step=2,
        consumed=(),
        dropped=dict.fromkeys(ids(failed), "no_success"),
    )
    assert tell_desk(run, message) == Noted()
    assert [draw.signal for draw in run.book.history.draws()] == [True, False]
    assert list(run.ledger.draws()) == run.book.history.draws()
    run.close()


def scripted_run(folder: Path, *, restarts: bool) -> list[tuple[str, str]]:
    """Groups and tasks of a run whose rewards follow from the task; each group is leased in two halves."""
    options = {"refill_most": 2, "retire_after": 1, "retire_epochs": 2, "staleness_bound": 1, "train_tasks": SEVEN}
    folder.mkdir()
    run, granted = begin(folder, **options), []
    while run.book.steps < 8:
        for _ in range(2):
            leases = roll_out(run, 1.0 if rewarded(run) else 0.0)
            granted += [(lease.group_id, lease.task_id) for lease in leases]
            if restarts:  # as after SIGKILL: what was not committed is gone
                run.book.grant("actor-0", 1, now=0.0)
                run.ledger._database.rollback()
                run.close()
                run = begin(folder, **options)
        step = run.book.steps + 1
        if isinstance(tell_desk(run, NextGroups(step=step)), Groups):
            survivors = run.book.take(step)[0].survivors
            trained = ids(record.lease for record in survivors if len({other.reward for other in survivors}) > 1)
            publish_step(run, step, trained, [] if trained else ids(record.lease for record in survivors))
    run.close()
    return granted


def rewarded(run: RunState) -> bool:
    """The second member of a group is rewarded, unless its task is never solved."""
    begun = [group for group in run.book.groups if group.state == "open" and group.survivors]
    return any(not group.task_id.startswith(("b", "c")) for group in begun)


def test_the_draws_of_a_gateway_killed_at_every_turn_are_those_of_one_that_was_not(tmp_path: Path):
    granted = scripted_run(tmp_path / "undisturbed", restarts=False)
    assert scripted_run(tmp_path / "killed", restarts=True) == granted
    epochs = [{task for group_id, task in granted if int(group_id[1:]) // len(SEVEN) == epoch} for epoch in range(2)]
    assert epochs == [set(SEVEN), {"a_1", "a_2", "d_1"}]


def test_a_task_that_is_always_solved_leaves_its_turn_to_the_others():
    book = make_book(tasks=SEVEN, groups_per_step=1, group_size=2, steps=99, retire_after=2, retire_epochs=3)
    taken = []
    for step in range(1, 43):
        book.steps = book.policy_version = step - 1
        leases, _ = book.grant("a", 2, now=0.0)
        taken.append(leases[0].task_id)
        for lease, reward in zip(leases, (1.0, 1.0 if leases[0].task_id == "c_1" else 0.0), strict=True):
            record = book.find(lease.lease_id)
            assert record is not None
            book.arrive(record, oldest_version=step - 1, reward=reward)
        book.take(step)
        solved = leases[0].task_id == "c_1"
        book.consume(step, () if solved else ids(leases), dict.fromkeys(ids(leases), "no_signal") if solved else {})
    # epochs of 7 and 7 draws with it, three of 6 without it, one of 7 with it, then without it again
    assert [number for number, task in enumerate(taken) if task == "c_1"][2] in range(32, 39)
    assert taken.count("c_1") == 3
    assert {taken.count(task) for task in SEVEN if task != "c_1"} <= {6, 7}
