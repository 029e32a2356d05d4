"""What must hold after any fault: the books balance, nothing acknowledged is lost, nothing was trained on twice."""

from __future__ import annotations

from fleet import Fleet
from light_trainer import states

from learner.gateway import books

HERE = ("ok", "duplicate")  # outcomes that say: the learner's disk has it


def assert_the_promises_hold(fleet: Fleet) -> None:
    """After the run's end, or when gateway, trainer and actors are gone."""
    assert books.main([str(fleet.run)]) == 0
    arrived = {row[0] for row in fleet.rows("SELECT trajectory_id FROM trajectories")}
    for actor in fleet.actors:
        acks = fleet.seen(actor, "ack")
        assert {ack["trajectory"] for ack in acks if ack["outcome"] in HERE} <= arrived, "acknowledged, and lost"
        assert [ack for ack in acks if ack["outcome"] == "invalid"] == []
        spooled = {entry["trajectory"] for entry in fleet.seen(actor, "spooled")}
        answered = {ack["trajectory"] for ack in acks}
        assert spooled <= arrived | answered | fleet.spool(actor), "finished, and gone without an answer"
    assert any(fleet.seen(actor, "ack") for actor in fleet.actors), "nothing was seen"
    consumed = [name for state in states(fleet.run) for name in state["consumed"]]
    assert len(consumed) == len(set(consumed)), "trained twice"
    trained = {row[0] for row in fleet.rows("SELECT lease_id FROM leases WHERE state = 'trained'")}
    # a trainer that was killed between its state and its word has trained on what the ledger has handed out
    unsaid = states(fleet.run)[-1]["consumed"] if len(states(fleet.run)) > fleet.steps() + 1 else ()
    assert set(consumed) - set(unsaid) == trained
    assert set(consumed) <= arrived


def assert_it_goes_on_and_ends_well(fleet: Fleet, *, steps: int = 2) -> None:
    """More steps are made without a hand's help, the run ends by itself, and the promises hold at its end."""
    fleet.until_steps(steps)
    fleet.finish()
    assert_the_promises_hold(fleet)
    pending = fleet.rows("SELECT COUNT(*) FROM leases WHERE state IN ('leased', 'received', 'handed')")
    assert pending == [(0,)]
    assert all(fleet.spool(actor) == set() for actor in fleet.actors)
