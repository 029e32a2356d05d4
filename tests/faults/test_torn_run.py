"""Versions torn while a run of real processes uses them, on either side: it goes on by itself and the books balance."""

import random

from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet
from light_policy import WEIGHTS
from test_torn_checkpoints import DAMAGES, tear

from common.checkpoint import MANIFEST, folder_of, published_versions


def test_versions_torn_on_the_actors_machine_are_fetched_afresh_by_the_actors_that_share_it(tmp_path):
    chance = random.Random(1)
    with Fleet(tmp_path, actor={"versions": str(tmp_path / "versions")}) as fleet:
        fleet.start()
        for _ in range(2):
            fleet.until_steps(1)
            fleet.kill("actor-0", "actor-1")
            for folder in (tmp_path / "versions").glob("*/v*"):
                tear(folder / chance.choice([WEIGHTS, MANIFEST]), chance.choice(DAMAGES))
            fleet.start("actor-0", "actor-1")
        assert_it_goes_on_and_ends_well(fleet)
        in_use = {name: fleet.events(name, "policy_version_in_use") for name in fleet.actors}
        fetched = {name: fleet.events(name, "version_downloaded") for name in fleet.actors}
    assert all(in_use.values())
    downloads = [entry["policy_version"] for entries in fetched.values() for entry in entries]
    assert len(downloads) < sum(map(len, in_use.values())), "one download serves both"


def test_a_version_torn_at_the_learner_is_waited_for_until_the_trainer_has_published_it_again(tmp_path):
    chance = random.Random(2)
    light = {"step_seconds": 1.0}
    with Fleet(tmp_path, actor={"reload": {"retry_seconds": 0.05}}, light=light) as fleet:
        fleet.start()
        for name in fleet.actors:  # one whose first version cannot be had ends
            fleet.until_logged(name, "policy_version_in_use")
        for _ in range(3):
            handed = len(fleet.events("gateway", "groups_handed"))
            version = fleet.until_logged("gateway", "groups_handed", count=handed + 1)["step"]
            fleet.freeze(*fleet.actors)  # the trainer has what it needs; they see its version when it is torn
            fleet.until(lambda version=version: fleet.steps() >= version, "a new version")
            fleet.freeze("trainer")
            folder = folder_of(fleet.run / "checkpoints", version)
            tear(folder / chance.choice([WEIGHTS, MANIFEST]), chance.choice(DAMAGES))
            fleet.thaw(*fleet.actors)
            for name in fleet.actors:
                fleet.until(lambda name=name, version=version: met(fleet, name, version), f"{name} to meet {version}")
            fleet.kill("trainer")
            fleet.start("trainer")
            for name in fleet.actors:
                fleet.until(lambda name=name, version=version: used(fleet, name) >= version, f"{name} to go on")
        refused = [entry for name in fleet.actors for entry in fleet.events(name, "policy_version_refused")]
        assert refused, "none was torn before it was fetched"
        assert_it_goes_on_and_ends_well(fleet)


def used(fleet, name):
    """The newest version that an actor has sampled with."""
    return max((entry["policy_version"] for entry in fleet.events(name, "policy_version_in_use")), default=-1)


def met(fleet, name, version):
    """Whether an actor has refused a version, or had it before it was torn."""
    refused = fleet.events(name, "policy_version_refused")
    return used(fleet, name) >= version or any(entry["policy_version"] == version for entry in refused)


def test_a_learner_that_was_killed_publishes_a_torn_version_again(tmp_path):
    chance = random.Random(3)
    with Fleet(tmp_path) as fleet:
        fleet.start()
        for number in range(2):
            fleet.until_steps(1)
            fleet.kill("trainer", "gateway")
            version = published_versions(fleet.run / "checkpoints")[-1]
            tear(folder_of(fleet.run / "checkpoints", version) / WEIGHTS, chance.choice(DAMAGES))
            fleet.start("gateway", "trainer")
            fleet.until_logged("trainer", "version_published_again", count=number + 1)
        assert_it_goes_on_and_ends_well(fleet)
