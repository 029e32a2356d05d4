"""Disks that are full for a while: each says so, nothing acknowledged is lost, the run goes on when there is room."""

from aftermath import assert_it_goes_on_and_ends_well, assert_the_promises_hold
from fleet import Fleet
from small_disk import small_disk

from common.checkpoint import folder_of, published_versions, verify


def granted(fleet, actor):
    """Leases ever granted to an actor, count."""
    return fleet.rows(f"SELECT COUNT(*) FROM leases WHERE actor = '{actor}'")[0][0]


def unanswered(fleet, actor):
    """What an actor has finished and spooled, and has no ack of."""
    return {seen["trajectory"] for seen in fleet.seen(actor, "spooled")} - {
        seen["trajectory"] for seen in fleet.seen(actor, "ack")
    }


def repeated(fleet, actor):
    """How often an actor has sent a trajectory in vain, count."""
    return sum(event["kind"] == "frame" for event in fleet.events(actor, "request_repeated"))


def stands_still(fleet):
    """Whether what is finished is not taken: of every actor that holds a lease, or the learner has ended on it."""
    waits = [actor for actor in fleet.actors if unanswered(fleet, actor)]
    vain = all(repeated(fleet, actor) >= 2 or not held_by(fleet, actor) for actor in fleet.actors)
    return waits and (fleet.has_ended("learner") or vain)


def says_full(fleet, actor):
    """Whether an actor has said that there is no room for a version: before its download, or amid it."""
    return fleet.events(actor, "no_room_for_version") or fleet.events(actor, "disk_full")


def held_by(fleet, actor):
    return fleet.rows(f"SELECT lease_id FROM leases WHERE state = 'leased' AND actor = '{actor}'")


def fill_while_all_work(fleet, disk):
    """Fill the disk when every actor is amid an episode, so that each has something to send afterwards."""

    def amid():
        fleet.freeze(*fleet.actors)
        spooled = {actor: {seen["trajectory"] for seen in fleet.seen(actor, "spooled")} for actor in fleet.actors}
        if all({lease for (lease,) in held_by(fleet, actor)} - spooled[actor] for actor in fleet.actors):
            return True
        fleet.thaw(*fleet.actors)
        return False

    fleet.until(amid, "every actor amid an episode")
    disk.fill()
    fleet.thaw(*fleet.actors)


def test_an_actor_whose_spool_is_on_a_full_disk_waits_with_what_it_finished(tmp_path):
    slots = 2
    with (
        small_disk(tmp_path / "actor-0" / "actor", 4) as disk,
        # nobody cuts what waits for room
        Fleet(
            tmp_path, seed=1, rollout={"straggler_share": 1.0}, actor={"episodes": slots}, light={"turn_tokens": 200}
        ) as fleet,
    ):
        fleet.start()
        fleet.until_steps(1)
        fleet.until(lambda: disk.fill() or fleet.events("actor-0", "spool_takes_no_more"), "word of the full disk")
        (said,) = fleet.events("actor-0", "spool_takes_no_more")
        assert str(disk.folder) in said["file"]
        assert "full" in said["reason"] or "space" in said["reason"]
        # no more is taken on than waits already
        fleet.until(lambda: len(held_by(fleet, "actor-0")) == slots, "a lease a slot")
        before = granted(fleet, "actor-0")
        arrived = len(fleet.seen("actor-1", "ack"))
        fleet.until(lambda: len(fleet.seen("actor-1", "ack")) > arrived, "more of the other actor")
        assert granted(fleet, "actor-0") == before
        waiting = held_by(fleet, "actor-0")
        disk.empty()
        finished = {row[0] for row in waiting}
        fleet.until(lambda: finished <= {ack["trajectory"] for ack in fleet.seen("actor-0", "ack")}, "their acks")
        fleet.until(lambda: granted(fleet, "actor-0") > before, "more leases")
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "lease_lapsed") == []


def test_an_actor_whose_versions_are_on_a_full_disk_samples_on_and_fetches_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "actor-0" / "versions", 4) as disk, Fleet(tmp_path, seed=2) as fleet:
        fleet.start()
        fleet.until_logged("actor-0", "policy_version_in_use")
        fleet.until_steps(1)
        # versions that are removed leave room, which others take
        fleet.until(lambda: disk.fill() or says_full(fleet, "actor-0"), "word of the full disk")
        used = len(fleet.events("actor-0", "policy_version_in_use"))
        disk.empty()
        fleet.until_logged("actor-0", "policy_version_in_use", count=used + 1)
        assert_it_goes_on_and_ends_well(fleet)


def test_a_learner_whose_checkpoints_are_on_a_full_disk_ends_with_one_line_and_goes_on_with_resume(tmp_path):
    with small_disk(tmp_path / "learner" / "checkpoints", 4) as disk, Fleet(tmp_path, seed=3) as fleet:
        fleet.start("learner", *fleet.actors)
        fleet.until_steps(1)
        fleet.until(lambda: disk.fill() or fleet.has_ended("learner"), "end of the learner", may_fail=("learner",))
        assert fleet.ended("learner") == 1
        last = fleet.printed("learner").splitlines()[-1]
        assert "No space left on device; make room on its disk" in last
        assert "go on with --resume" in last
        assert_the_promises_hold(fleet)
        disk.empty()
        checkpoints = fleet.run / "checkpoints"
        for version in published_versions(checkpoints):
            verify(folder_of(checkpoints, version))
        steps = fleet.steps()
        fleet.start("learner")
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.steps() >= steps + 2


def test_a_gateway_whose_ledger_is_on_a_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "learner", 8) as disk:
        for name in ("checkpoints", "logs", "state"):  # on another disk
            (tmp_path / "elsewhere" / name).mkdir(parents=True)
            (disk.folder / name).symlink_to(tmp_path / "elsewhere" / name)
        with Fleet(tmp_path, seed=4, light={"turn_tokens": 200}) as fleet:
            fleet.start()
            fleet.until_steps(1)
            fill_while_all_work(fleet, disk)
            said = fleet.until_logged("gateway", "disk_full")
            assert f"make room in {disk.folder}" in said["told"]
            for actor in fleet.actors:
                fleet.until_logged(actor, "request_repeated", kind="frame")
            acks = {actor: fleet.seen(actor, "ack") for actor in fleet.actors}
            arrived = fleet.rows("SELECT COUNT(*) FROM trajectories")
            for actor in fleet.actors:
                fleet.until_logged(actor, "request_repeated", count=2, kind="frame")
            assert {actor: fleet.seen(actor, "ack") for actor in fleet.actors} == acks
            assert fleet.rows("SELECT COUNT(*) FROM trajectories") == arrived
            disk.empty()
            fleet.until_logged("gateway", "disk_has_room")
            waiting = {actor: unanswered(fleet, actor) for actor in fleet.actors}
            assert all(waiting.values())
            fleet.until(lambda: not any(waiting[a] & unanswered(fleet, a) for a in fleet.actors), "their acks")
            assert_it_goes_on_and_ends_well(fleet)


def test_a_learner_whose_whole_folder_is_on_a_full_disk_goes_on_when_there_is_room_or_with_resume(tmp_path):
    with small_disk(tmp_path / "learner", 8) as disk, Fleet(tmp_path, seed=5, torn_logs=True) as fleet:
        fleet.start("learner", *fleet.actors)
        fleet.until_steps(1)
        fill_while_all_work(fleet, disk)
        # the gateway takes nothing more and waits; only a trainer that was just about to save ends, and the learner
        # with it. The logs are on the full disk too: that the run stands still is seen from the actors
        fleet.until(lambda: disk.fill() or stands_still(fleet), "a run that stands still", may_fail=("learner",))
        waiting = {actor: unanswered(fleet, actor) for actor in fleet.actors}
        disk.empty()
        if fleet.has_ended("learner"):
            assert fleet.ended("learner") == 1
            assert "make room on its disk" in fleet.printed("learner")
            fleet.start("learner")
        fleet.until(lambda: not any(waiting[a] & unanswered(fleet, a) for a in fleet.actors), "their acks")
        assert_it_goes_on_and_ends_well(fleet)
