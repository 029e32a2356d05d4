"""Where figures are to be served: a port that is taken, one that the learner needs, and who may read there."""

from __future__ import annotations

import json
import socket

import pytest

from common.config import LinkConfig
from common.doctor_metrics import EXPORTERS, metrics_checks, port, readers
from common.exporter import FOLDER
from common.metrics_config import MetricsConfig


@pytest.fixture
def taken():
    """A port that another process listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_free_port_is_well(tmp_path, taken):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    found = port(MetricsConfig(port=number), None, tmp_path)
    assert (found.state, found.text) == ("ok", f"127.0.0.1:{number} is free")
    assert number != taken


def test_a_port_that_is_taken_is_told_with_what_happens_instead(tmp_path, taken):
    found = port(MetricsConfig(port=taken), None, tmp_path)
    assert found.state == "warning"
    assert found.text.startswith(f"127.0.0.1:{taken}: another process listens there; a free port is taken instead")
    assert "--metrics.port" in found.remedy


def test_one_that_this_run_serves_at_is_well(tmp_path, taken):
    assert EXPORTERS == FOLDER
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "broken.json").write_text("[{")
    (tmp_path / FOLDER / "actor-0.json").write_text(json.dumps([{"targets": [f"127.0.0.1:{taken}"], "labels": {}}]))
    found = port(MetricsConfig(port=taken), None, tmp_path)
    assert (found.state, "exporters/actor-0.json" in found.text) == ("ok", True)


def test_a_port_of_this_machines_learner_is_an_error_and_another_machines_is_none(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    metrics, link = MetricsConfig(port=number), LinkConfig(files_port=number)
    found = port(metrics, link, tmp_path)
    assert (found.state, found.text) == ("error", f"metrics.port and link.files_port are both {number}")
    names = {
        side: [check.run().state for check in metrics_checks(metrics, link, tmp_path, [side])]
        for side in ("actor", "learner")
    }
    assert names == {"actor": ["ok", "ok"], "learner": ["error", "ok"]}


def test_port_0_is_chosen_and_nothing_is_asked_of_what_is_not_served(tmp_path, taken):
    assert port(MetricsConfig(), LinkConfig(port=0, files_port=0), tmp_path).text.startswith("chosen when")
    off = MetricsConfig(serve=False, host="0.0.0.0", port=taken)
    assert [port(off, None, tmp_path).state, readers(off).state] == ["ok", "ok"]


@pytest.mark.parametrize("host", ["192.0.2.7", "nobody.invalid"])
def test_an_address_of_another_machine_is_told(tmp_path, host, monkeypatch):
    def unknown(address, **_):
        raise socket.gaierror(-2, "Name or service not known") if "invalid" in address[0] else OSError(99, "no")

    monkeypatch.setattr(socket, "create_server", unknown)
    found = port(MetricsConfig(host=host, port=9464), None, tmp_path)
    assert (found.state, found.text) == (
        "warning",
        f"{host} is not an address of this machine: no metrics will be served",
    )


@pytest.mark.parametrize(
    ("host", "state"),
    [
        *[("127.0.0.1", "ok"), ("::1", "ok"), ("localhost", "ok"), ("10.0.0.1", "ok"), ("fd00::7", "ok")],
        *[("0.0.0.0", "warning"), ("::", "warning"), ("8.8.8.8", "warning"), ("gpu-1.example.org", "warning")],
    ],
)
def test_metrics_are_for_this_machine_or_a_closed_network(host, state):
    found = readers(MetricsConfig(host=host))
    assert found.state == state
    assert ("no password" in found.text) == (host not in ("127.0.0.1", "::1", "localhost"))
