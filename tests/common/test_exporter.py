"""/metrics and /health over a real socket: what is answered, to whom, and what nobody who asks can do."""

import contextlib
import json
import os
import socket
import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

import common.exporter
from common.exporter import Exporter, exporting
from common.measures import Figures, Measure, Split
from common.metrics_config import MetricsConfig
from common.pulse import STUCK_SECONDS, Pulse

TABLE = (
    Measure("loop_test_spool_bytes", "gauge", "bytes"),
    Measure("loop_test_episodes_total", "counter", "episodes", ("outcome",)),
)
FIGURES = Figures(
    {"loop_test_spool_bytes": 7.0, "loop_test_episodes_total": Split({("finished",): 3.0})}, {"run": "tiny"}
)


@contextlib.contextmanager
def served(folder, *, pulse=None, port=0, host="127.0.0.1", more=dict):
    with exporting(MetricsConfig(port=port, host=host), folder, "learner", TABLE, pulse or beaten(), more=more) as made:
        yield made


def beaten(figures=FIGURES):
    pulse = Pulse("learner.gateway")
    pulse.beat(figures, "leases")
    return pulse


def sent(port, data, *, timeout=20.0):
    """What a server says to some bytes, until it closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        client.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := client.recv(65536):
                answer += chunk
    return answer


def asked(port, path, method="GET"):
    head, _, body = sent(port, f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()).partition(b"\r\n\r\n")
    return int(head.split()[1]), head.decode(), body.decode()


def samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_the_last_beat_brought_is_served(tmp_path):
    with served(tmp_path) as exporter:
        status, head, body = asked(exporter.port, "/metrics")
        assert status == 200
        assert "Content-Type: text/plain; version=0.0.4" in head
        assert f"Content-Length: {len(body.encode())}\r\n" in head
        found = samples(body)
        assert found["loop_test_spool_bytes", ("run", "tiny")] == 7.0
        assert found["loop_test_episodes_total", ("outcome", "finished"), ("run", "tiny")] == 3.0
        assert found["process_resident_memory_bytes",] > 1 << 20


def test_further_values_are_asked_for_in_the_exporters_thread(tmp_path):
    threads = []

    def more():
        threads.append(threading.current_thread().name)
        return {"loop_test_spool_bytes": 9.0}

    with served(tmp_path, more=more) as exporter:
        _, _, body = asked(exporter.port, "/metrics")
    assert samples(body)["loop_test_spool_bytes", ("run", "tiny")] == 9.0
    assert set(threads) == {"exporter"}


def test_a_loop_that_beats_is_healthy(tmp_path):
    with served(tmp_path) as exporter:
        status, head, body = asked(exporter.port, "/health?verbose=1")
    said = json.loads(body)
    assert (status, said["status"], said["process"]) == (200, "ok", "learner.gateway")
    assert said["waiting_for"] == "leases"
    assert said["seconds_since_beat"] < STUCK_SECONDS
    assert "application/json" in head


def stuck_here(until):
    until.wait()


def test_a_loop_that_is_stuck_is_not_and_it_is_said_for_how_long_and_in_what(tmp_path):
    now, beaten, until, made = [100.0], threading.Event(), threading.Event(), []

    def loop():
        made.append(Pulse("actor", clock=lambda: now[0]))
        made[0].beat()
        now[0] += 42.0
        beaten.set()
        stuck_here(until)

    thread = threading.Thread(target=loop)
    thread.start()
    assert beaten.wait(20)
    try:
        with served(tmp_path, pulse=made[0]) as exporter:
            status, _, body = asked(exporter.port, "/health")
    finally:
        until.set()
        thread.join()
    said = json.loads(body)
    assert (status, said["status"]) == (503, "stuck")
    assert said["reason"].startswith("actor has been stuck for 42 s in ")
    # none of ours is on that stack: it is in the test's, or in what it calls
    assert "threading." in said["reason"]
    # and the process's metrics are there all the same
    assert made[0].health().well is False


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("POST /metrics HTTP/1.1", 405),
        ("GET /secrets HTTP/1.1", 404),
        ("GET /metrics HTTP/2", 400),
        ("GET /metrics", 400),
        ("\x16\x03\x01 nonsense", 400),
        ("", 400),
    ],
)
def test_other_requests_are_refused(tmp_path, request_line, status):
    with served(tmp_path) as exporter:
        answer = sent(exporter.port, request_line.encode("latin-1") + b"\r\n\r\n")
    assert int(answer.split()[1]) == status


def test_a_head_has_no_body(tmp_path):
    with served(tmp_path) as exporter:
        status, head, body = asked(exporter.port, "/health", "HEAD")
    assert (status, body) == (200, "")
    assert "Content-Length: 0" not in head


def test_a_request_without_end_is_refused(tmp_path):
    with served(tmp_path) as exporter:
        assert b" 431 " in sent(exporter.port, b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 9000)
        assert asked(exporter.port, "/health")[0] == 200


def test_slow_clients_are_let_go_and_others_answered(tmp_path, monkeypatch):
    """More of them than are answered at a time, each of which says nothing, or half a request."""
    monkeypatch.setattr(common.exporter, "CLIENT_SECONDS", 0.2)
    with served(tmp_path) as exporter, contextlib.ExitStack() as held:
        for number in range(common.exporter.CLIENTS + 4):
            slow = held.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
            slow.sendall(b"GET /met" * (number % 2))
        assert asked(exporter.port, "/health")[0] == 200


def test_a_client_that_does_not_read_is_let_go(tmp_path, monkeypatch):
    monkeypatch.setattr(common.exporter, "CLIENT_SECONDS", 0.2)
    many = Split({(f"outcome-{number}" * 20,): 1.0 for number in range(40_000)})
    pulse = beaten(Figures({"loop_test_episodes_total": many}))
    with served(tmp_path, pulse=pulse) as exporter, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", exporter.port))
        deaf.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert asked(exporter.port, "/health")[0] == 200


def test_an_error_in_the_figures_is_one_answer_and_one_warning(tmp_path):
    def more():
        raise KeyError("steps")

    with capture_logs() as logs, served(tmp_path, more=more) as exporter:
        assert asked(exporter.port, "/metrics")[0] == 500
        assert asked(exporter.port, "/metrics")[0] == 500
        assert asked(exporter.port, "/health")[0] == 200
    assert [entry["reason"] for entry in logs if entry["event"] == "exporter_failed"] == ["KeyError: 'steps'"]


def test_where_it_listens_stands_in_a_file_for_prometheus_while_it_does(tmp_path):
    with served(tmp_path) as exporter:
        (target,) = json.loads((tmp_path / "exporters" / "learner.json").read_text())
        assert target == {"targets": [f"127.0.0.1:{exporter.port}"], "labels": {"process": "learner"}}
    assert list((tmp_path / "exporters").iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        asked(exporter.port, "/health")


def test_a_port_in_use_is_one_warning_and_another_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other, capture_logs() as logs:
        taken = other.getsockname()[1]
        with served(tmp_path, port=taken) as exporter:
            assert exporter.port not in (0, taken)
            assert asked(exporter.port, "/health")[0] == 200
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert (warning["event"], warning["port"], warning["instead"]) == ("metrics_port_taken", taken, exporter.port)


def test_an_address_that_is_not_this_machines_is_one_warning_and_nothing_is_served(tmp_path):
    with capture_logs() as logs, served(tmp_path, host="192.0.2.1") as exporter:
        assert exporter.port == 0
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "no_metrics_served"
    assert "metrics.host" in warning["remedy"]


def test_a_full_disk_does_not_keep_it_from_serving(tmp_path):
    (tmp_path / "exporters").write_text("a file where the folder should be")
    with capture_logs() as logs, served(tmp_path) as exporter:
        assert asked(exporter.port, "/health")[0] == 200
    assert [entry["event"] for entry in logs] == ["exporter_listens", "exporter_not_written_down"]


def test_where_it_is_switched_off_nothing_listens(tmp_path):
    with exporting(MetricsConfig(serve=False), tmp_path, "learner", TABLE, beaten()) as exporter:
        assert exporter.port == 0
    assert not (tmp_path / "exporters").exists()


def test_a_forked_child_does_not_hold_the_port(tmp_path):
    exporter = Exporter(MetricsConfig(), tmp_path, "learner", TABLE, beaten()).start()
    reading, writing = os.pipe()
    begun, begins = os.pipe()
    child = os.fork()
    if not child:
        os.write(begins, b"x")
        os.read(reading, 1)
        os._exit(0)
    try:
        os.read(begun, 1)  # until then it has not let go of anything
        exporter.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", exporter.port))
    finally:
        os.write(writing, b"x")
        os.waitpid(child, 0)
        for end in (reading, writing, begun, begins):
            os.close(end)
