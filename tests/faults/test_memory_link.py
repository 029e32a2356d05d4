"""The whole link in memory and in virtual time against drawn faults; and controls that must fail, one for each promise.

`pytest -m slow tests/faults/test_memory_link.py` draws some hundred plans instead of a few.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as Stage
from hypothesis import strategies as st
from memory_link import HARMLESS, KINDS, Fate
from twin import EVENTS, Phase, play

from learner.gateway.inbox import Inbox
from learner.gateway.leases import Verdict

UNSPOILED = tuple(sorted(HARMLESS))
AMOUNTS = st.sampled_from([n / 32 for n in range(32)])


def plans(kinds, events=EVENTS, *, least=1, most=5):
    """Most messages pass; a list of fates begins again at its end."""
    fate = st.builds(Fate, st.sampled_from(kinds), AMOUNTS)
    fates = st.lists(st.one_of(st.just(Fate()), fate), max_size=7).map(tuple)
    event, seconds = st.sampled_from(events), st.sampled_from([1.0, 4.0, 10.0, 25.0])
    phase = st.builds(Phase, up=fates, down=fates, event=event, amount=AMOUNTS, seconds=seconds)
    return st.lists(phase, min_size=least, max_size=most)


def search(examples, strategy, damage=None):
    """Plays drawn plans, the same every time; fails with the first that does not end well, as it was drawn."""

    def played(plan):
        play(plan, damage)

    how = {"derandomize": True, "database": None, "deadline": None, "phases": [Stage.generate]}
    settings(max_examples=examples, suppress_health_check=list(HealthCheck), **how)(given(strategy)(played))()


@pytest.mark.parametrize(
    "examples", [15, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids=["few", "many"]
)
@pytest.mark.parametrize("kinds", [UNSPOILED, KINDS], ids=["lost-late-repeated", "spoiled-too"])
def test_nothing_is_lost_or_trained_twice_and_the_run_goes_on(kinds, examples):
    search(examples, plans(kinds))


def test_a_message_that_says_everything_twice_and_late_is_known_again():
    """What the searches draw by chance, once by intent; and that the faults are there at all."""
    twice = (Fate("duplicate", 0.5),)
    twin = play([Phase(up=twice, down=twice, seconds=20.0), Phase(event="kill_gateway", amount=0.1)])
    assert twin.network.seen["duplicate"] > 200
    assert twin.gateway_kills == 1
    again = [entry for entry in twin.logs if entry["event"] == "trajectory_not_taken" and "actor" in entry]
    assert {entry["outcome"] for entry in again} == {"duplicate"}
    assert len(again) > 20


def test_what_is_spoiled_is_counted_and_answered_and_costs_no_actor():
    """Every seventh message, either way, is cut short, longer than said, headless, or has a bit turned."""
    spoiled = [Fate(kind, 0.4) for kind in ("truncate", "enlarge", "behead", "flip")]
    fates = tuple(fate for one in spoiled for fate in (*[Fate()] * 6, one))
    twin = play([Phase(up=fates, down=fates, seconds=35.0)])
    assert twin.network.seen["unreadable up"] > 20
    assert twin.counted() == twin.network.seen["unreadable up"]
    assert twin.network.seen["unreadable down"] > 20
    assert twin.misled == []


def test_whoever_hangs_up_on_every_word_is_greeted_again_and_again_but_not_without_a_pause():
    """Virtual time ends a test in which somebody is busy and no time passes."""
    twin = play([Phase(up=(Fate("oversize"),), seconds=25.0)])
    assert 10 < twin.network.seen["oversize"] < 200


# --- controls: the same search finds what a worse gateway does


class ForgetfulInbox(Inbox):
    """Without deduplication: what is known already is taken for new, and is ready to be trained on."""

    def receive(self, actor, trajectory, frame):
        register, lease = self._book._register, trajectory.lease
        if lease.lease_id not in register.leases and self._ledger.has_arrived(lease.lease_id):
            (group,) = self._ledger._groups("group_id = ?", (lease.group_id,))
            register.restore(group)
            for record in group.survivors:
                register.move(record, "received")
            register.move_group(group, "ready")
            return Verdict("ok")
        return super().receive(actor, trajectory, frame)


def forget(run):
    run.inbox = ForgetfulInbox(run.book, run.ledger)


def lower_the_fences(run):
    """Without epochs: the trajectory of a lapsed lease is taken although another has its place."""
    run.book.may_arrive = lambda _record: True


def acknowledge_before_the_disk(run):
    """Only every tenth commit is one."""
    commit, calls = run.commit, iter(range(1 << 30))
    run.commit = lambda: commit() if next(calls) % 10 == 0 else None


CONTROLS = {
    "deduplication": (forget, ("none",), "trained twice|a step whose count"),
    "fences": (lower_the_fences, ("silence", "whole"), "two trajectories for one member"),
    "journal": (acknowledge_before_the_disk, ("kill_gateway",), "acknowledged and lost"),
}


@pytest.mark.parametrize("control", CONTROLS)
def test_without_it_the_search_finds_the_failure(control):
    damage, events, found = CONTROLS[control]
    strategy = plans(UNSPOILED, events, least=2)
    with pytest.raises(AssertionError, match=found):
        search(100, strategy, damage)
