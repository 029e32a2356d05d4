"""The gateway's loop beats for whoever asks; stuck, it is said to be so by a thread that is not."""

import asyncio
import json
import signal
import socket
import threading

import asking
from test_process import gateway  # noqa: F401 - a fixture

import common.pulse
import learner.gateway.exported
from common.metrics import MetricsFile
from common.metrics_config import MetricsConfig
from common.run_lock import only_one
from learner.gateway.exported import exported


def test_a_loop_that_is_stuck_is_said_to_be_and_well_again_afterwards(tmp_path, monkeypatch):
    monkeypatch.setattr(common.pulse, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(learner.gateway.exported, "BEAT_SECONDS", 0.01)
    monkeypatch.setattr("common.run_lock.PATIENCE", 60.0)
    told, held, free = [], threading.Event(), threading.Event()

    def hold():
        with only_one(tmp_path / "a.lock"):
            held.set()
            free.wait()

    def ask():
        try:
            address = asking.address_of(tmp_path, "learner")
            while not told or told[-1][0] == 200:
                told.append(asking.health(address))
            free.set()
            while told[-1][0] == 503:
                told.append(asking.health(address))
        finally:
            free.set()

    async def serve():
        async with exported(MetricsConfig(), tmp_path, "tiny", no_picture):
            threads[0].start()
            await asyncio.to_thread(held.wait)
            threads[1].start()
            with only_one(tmp_path / "a.lock"):
                pass
            await asyncio.to_thread(threads[1].join)

    threads = [threading.Thread(target=target) for target in (hold, ask)]
    asyncio.run(serve())
    threads[0].join()
    stuck = next(said for status, said in told if status == 503)
    assert stuck["reason"].startswith("learner.gateway has been stuck for 0 s in common.run_lock.only_one, line ")
    assert told[-1][0] == 200


def no_picture():
    raise KeyError("a defect")


def test_a_gateways_process_serves_its_run_until_it_ends(gateway):  # noqa: F811 - the fixture
    MetricsFile(gateway.folder / "metrics.jsonl").write("step", step=1, loss=0.5, lags={"1": 7})
    process = gateway.start()
    address = asking.address_of(gateway.folder, "learner", goes_on=lambda: process.poll() is None)
    assert address.startswith("127.0.0.1:")
    assert asking.health(address)[0] == 200
    found = asking.samples(address)
    (run,) = {labels[0] for name, *labels in found if name == "loop_learner_loss"}
    assert run.startswith(gateway.folder.name)
    assert found["loop_learner_loss", run] == 0.5
    assert found["loop_learner_token_lag_versions_count", run] == 7
    assert found["loop_learner_phase", "evaluate_before", run] + found["loop_learner_phase", "train", run] == 1
    assert found["loop_learner_steps_planned", run] == 50
    assert found["loop_learner_books_balanced", run] == 1
    assert found["loop_learner_disk_free_bytes", run] > 0
    assert asking.health(address)[1]["waiting_for"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert list((gateway.folder / "exporters").iterdir()) == []


def test_a_gateway_whose_metrics_cannot_be_served_there_runs(gateway):  # noqa: F811 - the fixture
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        file = gateway.folder / "config.yaml"
        file.write_text(file.read_text() + f"metrics: {{port: {taken}}}\n")
        process = gateway.start()
        address = asking.address_of(gateway.folder, "learner", goes_on=lambda: process.poll() is None)
        assert address != f"127.0.0.1:{taken}"
        assert asking.health(address)[0] == 200
    log = (gateway.folder / "logs" / "gateway.jsonl").read_text().splitlines()
    assert [line["port"] for line in map(json.loads, log) if line["event"] == "metrics_port_taken"] == [taken]
