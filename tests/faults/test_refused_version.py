"""Weights that are not those the learner computed with, though their digests are right, among real processes."""

from aftermath import assert_the_promises_hold
from fleet import Fleet


def test_a_version_that_is_refused_again_and_again_ends_the_actor_and_the_learner_says_why(tmp_path):
    settings = {"light": {"altered_from": 2}, "actor": {"reload": {"retry_seconds": 0.01}}}
    with Fleet(tmp_path, actors=("actor-0",), seed=5, **settings) as fleet:
        fleet.start()
        assert fleet.ended("actor-0") == 1
        refused = fleet.events("gateway", "version_refused")
        last = refused[-1]["policy_version"]
        assert last >= 2
        assert [entry["policy_version"] for entry in refused].count(last) == 3
        for entry in refused:
            assert entry["actor"] == "actor-0"
            assert entry["reason"].startswith("probe differs by")
            assert entry["probe_difference"] > 1e-3
            assert entry["level"] == "error"
        reloads = fleet.events_of(fleet.run / "metrics.jsonl")
        told = [entry for entry in reloads if entry["event"] == "reload" and not entry["accepted"]]
        assert [entry["probe_difference"] for entry in told] == [entry["probe_difference"] for entry in refused]
        said = fleet.printed("actor-0").splitlines()[-1]
        assert f"policy version {last} was refused 3 times, last: probe differs by" in said
        fleet.kill("trainer", "gateway")
        # G5: nothing that version sampled has left the actor
        assert fleet.rows("SELECT COUNT(*) FROM trajectories WHERE oldest_version >= 2") == [(0,)]
        assert_the_promises_hold(fleet)
