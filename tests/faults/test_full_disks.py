"""Disks that are full for a while: each says so, nothing acknowledged is lost, and the run goes on when there is room."""

from aftermath import assert_it_goes_on_and_ends_well, assert_the_promises_hold
from fleet import Fleet
from small_disk import small_disk

from common.checkpoint import folder_of, published_versions, verify


def granted(fleet, actor):
    """Leases ever granted to an actor, count."""
    return fleet.rows(f"SELECT COUNT(*) FROM leases WHERE actor = '{actor}'")[0][0]


def test_an_actor_whose_spool_is_on_a_full_disk_waits_with_what_it_finished(tmp_path):
    slots = 2
    with (
        small_disk(tmp_path / "actor-0" / "actor", 4) as disk,
        Fleet(tmp_path, seed=1, actor={"episodes": slots}, light={"turn_tokens": 200}) as fleet,
    ):
        fleet.start()
        fleet.until_steps(1)
        disk.fill()
        said = fleet.until_logged("actor-0", "spool_takes_no_more")
        assert str(disk.folder) in said["file"]
        assert "full" in said["reason"] or "space" in said["reason"]
        # told to the learner too; and no more is taken on than waits already
        fleet.until_logged("gateway", "actor_waits", actor="actor-0")
        before = granted(fleet, "actor-0")
        fleet.until_logged("actor-0", "spool_takes_no_more", count=2)
        assert granted(fleet, "actor-0") == before
        waiting = fleet.rows("SELECT lease_id FROM leases WHERE state = 'leased' AND actor = 'actor-0'")
        assert len(waiting) == slots
        disk.empty()
        fleet.until(lambda: granted(fleet, "actor-0") > before, "more leases")
        assert_it_goes_on_and_ends_well(fleet)
        arrived = fleet.rows("SELECT trajectory_id FROM trajectories")
        assert set(waiting) <= set(arrived)
        assert fleet.events("gateway", "lease_lapsed") == []


def test_an_actor_whose_versions_are_on_a_full_disk_samples_on_and_fetches_when_there_is_room(tmp_path):
    with small_disk(tmp_path / "actor-0" / "versions", 4) as disk, Fleet(tmp_path, seed=2) as fleet:
        fleet.start()
        fleet.until_logged("actor-0", "policy_version_in_use")
        fleet.until_steps(1)
        disk.fill()
        fleet.until_logged("actor-0", "no_room_for_version")
        used = len(fleet.events("actor-0", "policy_version_in_use"))
        disk.empty()
        fleet.until_logged("actor-0", "policy_version_in_use", count=used + 1)
        assert_it_goes_on_and_ends_well(fleet)


def test_a_learner_whose_checkpoints_are_on_a_full_disk_ends_with_one_line_and_goes_on_with_resume(tmp_path):
    with small_disk(tmp_path / "learner" / "checkpoints", 4) as disk, Fleet(tmp_path, seed=3) as fleet:
        fleet.start("learner", *fleet.actors)
        fleet.until_steps(1)
        disk.fill()
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
