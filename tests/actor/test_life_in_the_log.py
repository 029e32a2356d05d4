"""The actor's half of a trajectory's life has a line at every station, one of them at info."""

from scene import live, make_worker, many
from structlog.testing import capture_logs

from common.messages import Trajectory
from common.tail_life import STATION_OF


def test_a_lease_that_is_fulfilled_leaves_a_line_at_every_station(scene, tmp_path):
    scene.leases = many(1)
    (lease,) = scene.leases
    with capture_logs() as logs:
        live(make_worker(scene, tmp_path), lambda: scene.of(Trajectory))
    mine = [line for line in logs if lease.lease_id in (line.get("lease"), line.get("trajectory"))]
    levels = {STATION_OF[line["event"]]: line["log_level"] for line in mine if line["event"] in STATION_OF}
    at_debug = ("episode begun", "turns", "spooled", "sent", "acknowledged")
    assert levels == {**dict.fromkeys(at_debug, "debug"), "finished": "info"}
