"""Wall clocks an hour off, and jumping by hours amid the run: no lease lapses for it, and nothing stalls."""

import shutil
import struct
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest
from aftermath import assert_it_goes_on_and_ends_well
from fleet import Fleet

from learner.gateway import books
from learner.gateway.ledger import open_database

HOUR = 3600
SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClock:
    """The wall clock of whatever process runs with `environment`: C functions of it, so Python's and SQLite's too."""

    def __init__(self, library: Path, file: Path, seconds: int) -> None:
        self._file = file
        self.shift(seconds)
        self.environment = {"LD_PRELOAD": str(library), "WALL_CLOCK_SHIFT": str(file)}

    def shift(self, seconds: int) -> None:
        """From now on it shows so many seconds more than this process's."""
        with self._file.open("r+b" if self._file.exists() else "wb") as stream:
            stream.write(struct.pack("=q", seconds))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is needed for a library that shifts a process's wall clock")
    built = tmp_path_factory.mktemp("wall_clock") / "wall_clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", built, SOURCE, "-ldl"], check=True)
    return built


def shown_by(fleet, name):
    """How many hours the newest line of a process's log is off."""
    (file,) = [file for file in fleet.logs() if file.name == f"{name}.jsonl"]
    newest = datetime.fromisoformat(fleet.events_of(file)[-1]["timestamp"]).timestamp()
    return round((newest - time.time()) / HOUR)


def test_clocks_that_are_hours_off_and_jump_make_no_difference(tmp_path, library):
    hours = {"gateway": 1, "trainer": 0, "actor-0": -1, "actor-1": 2}
    clocks = {name: WallClock(library, tmp_path / f"{name}.shift", HOUR * off) for name, off in hours.items()}
    environment = {name: clock.environment for name, clock in clocks.items()}
    # lapses after 15 s, silence after three: far less than any jump, and more than a busy machine stalls
    settings = {"link": {"heartbeat_seconds": 1.0}, "rollout": {"lease_seconds": 15.0}}
    with Fleet(tmp_path, environment=environment, **settings) as fleet:
        fleet.start()
        for off_by in (
            hours,
            {"gateway": -1, "trainer": 1, "actor-0": 1, "actor-1": 2},
            {"gateway": 2, "trainer": -2, "actor-0": -2, "actor-1": -1},
            dict.fromkeys(clocks, 0),
        ):
            for name, off in off_by.items():
                clocks[name].shift(HOUR * off)
            fleet.until_steps(2)
            assert {name: shown_by(fleet, name) for name in clocks} == off_by
        assert_it_goes_on_and_ends_well(fleet)
        assert fleet.events("gateway", "lease_lapsed") == fleet.events("gateway", "actor_silent") == []
        assert [fleet.events(actor, "learner_silent") for actor in fleet.actors] == [[], []]
        trained = fleet.rows("SELECT lease_id FROM leases WHERE state = 'trained'")
        with open_database(fleet.run / "ledger.sqlite", read_only=True) as database:
            stories = [[event["event"] for event in books.story(database, row[0])["events"]] for row in trained]
        database.close()
        assert all(story == ["leased", "received", "handed", "trained"] for story in stories)
