"""/metrics and /health over HTTP, from a thread of their own.

    process's loop ── beats ──► Pulse ──► Exporter ──► who asks: Prometheus, a load balancer, a person

Nobody who asks can hold up the process: a request may have 4 KiB and a few seconds, few are answered at a time, the
next ones wait in the kernel, and the text is made at most a few times a second. Nothing here can end the process
either: a port that cannot be had is one warning. Where it listens stands in a file that Prometheus' `file_sd_configs`
reads: exporters/NAME.json in the run's folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from common.config import is_loopback
from common.log import get_logger
from common.measures import Figures, Measure, Value, families
from common.metrics_config import MetricsConfig
from common.pulse import Pulse

log = get_logger(__name__)
FOLDER = "exporters"
REQUEST_BYTES = 4 << 10
CLIENT_SECONDS = 5.0  # for its request and for reading the answer
CLIENTS = 8  # at a time
PACE_SECONDS = 0.01  # between two connections
TEXT_SECONDS = 0.25  # that the text of /metrics is used again
PAUSE_SECONDS = 1.0  # after a connection that could not be taken, as for want of descriptors
END_SECONDS = 2.0
JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Exporter:
    """One process's figures, served from `start` to `close`. `port` is 0 while nothing is served.

    Args:
        config: where.
        folder: the run's.
        name: tells the run's processes apart.
        table: all that is served, besides what the kernel knows of the process.
        pulse: brings the figures.
        more: further values, asked for in the exporter's thread whenever somebody asks.
    """

    def __init__(
        self,
        config: MetricsConfig,
        folder: Path,
        name: str,
        table: Sequence[Measure],
        pulse: Pulse,
        *,
        more: Callable[[], Mapping[str, Value]] = dict,
    ) -> None:
        self.port = 0
        self.file = folder / FOLDER / f"{name}.json"
        self._config, self._name, self._table, self._pulse, self._more = config, name, table, pulse, more
        self.registry = CollectorRegistry()  # not the global one: vLLM's metrics are there
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        self._text, self._text_at = b"", float("-inf")
        self._failed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._serving: asyncio.Task[None] | None = None
        self._thread: threading.Thread | None = None
        self._can_be_ended = threading.Event()

    def start(self) -> Self:
        """Listen and serve; what stands in the way is logged once, and the process goes on without."""
        listening = self._listen()
        if listening is None:
            return self
        # a child forked from this process, as vLLM's engine is, does not hold the port
        os.register_at_fork(after_in_child=listening.close)
        host, self.port = self._config.host, listening.getsockname()[1]
        if not is_loopback(host):
            log.warning("exporter_on_the_network", host=host, port=self.port, reason="whoever reaches it may read it")
        log.info("exporter_listens", host=host, port=self.port, file=str(self.file))
        self._write_down(f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}")
        self._thread = threading.Thread(target=self._run, args=(listening,), name="exporter", daemon=True)
        self._thread.start()
        self._can_be_ended.wait(END_SECONDS)
        return self

    def close(self) -> None:
        """Idempotent."""
        if self._thread is None:
            return
        with contextlib.suppress(OSError):
            self.file.unlink(missing_ok=True)
        if self._loop is not None and self._serving is not None:
            with contextlib.suppress(RuntimeError):  # it has ended by itself
                self._loop.call_soon_threadsafe(self._serving.cancel)
        self._thread.join(END_SECONDS)
        self._thread = None

    def describe(self) -> list[Metric]:
        """Nothing: for the registry, which else would collect before there is anything."""
        return []

    def collect(self) -> Iterator[Metric]:
        """For the registry: the figures that the last beat brought, and what there is besides."""
        figures = self._pulse.figures
        return families(self._table, Figures({**figures.values, **self._more()}, figures.labels))

    # ---- listening

    def _listen(self) -> socket.socket | None:
        host, port = self._config.host, self._config.port
        try:
            return _bound(host, port)
        except OSError as error:
            reason = f"{error.strerror or error}"
        if port:
            with contextlib.suppress(OSError):
                found = _bound(host, 0)
                log.warning("metrics_port_taken", host=host, port=port, reason=reason, instead=found.getsockname()[1])
                return found
        remedy = "set metrics.host to an address of this machine, or metrics.serve to false"
        log.warning("no_metrics_served", host=host, port=port, reason=reason, remedy=remedy)
        return None

    def _write_down(self, target: str) -> None:
        draft = self.file.with_suffix(".draft")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps([{"targets": [target], "labels": {"process": self._name}}]) + "\n")
            draft.rename(self.file)
        except OSError as error:
            log.warning("exporter_not_written_down", file=str(self.file), reason=str(error))

    # ---- the thread

    def _run(self, listening: socket.socket) -> None:
        with listening, contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._serve(listening))

    async def _serve(self, listening: socket.socket) -> None:
        self._serving, self._loop = asyncio.current_task(), asyncio.get_running_loop()
        self._can_be_ended.set()
        free, clients = asyncio.Semaphore(CLIENTS), set[asyncio.Task[None]]()

        def forget(client: asyncio.Task[None]) -> None:
            clients.discard(client)
            free.release()

        while True:
            await free.acquire()
            try:
                connection, _ = await self._loop.sock_accept(listening)
            except OSError as error:
                self._say(str(error))
                free.release()
                await asyncio.sleep(PAUSE_SECONDS)
                continue
            client = asyncio.create_task(self._serve_client(connection))
            clients.add(client)
            client.add_done_callback(forget)
            await asyncio.sleep(PACE_SECONDS)

    async def _serve_client(self, connection: socket.socket) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(CLIENT_SECONDS):
                reader, writer = await asyncio.open_connection(sock=connection, limit=REQUEST_BYTES)
                writer.write(await self._response(reader))
                writer.close()
                await writer.wait_closed()
        except (OSError, EOFError, TimeoutError):
            pass  # the client's own fault, and its loss
        finally:
            if writer is not None:
                writer.transport.abort()
            connection.close()

    async def _response(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return _http(431, PLAIN, b"the request is too long\n")
        try:
            return self.answer(head.split(b"\r\n", 1)[0])
        except Exception as error:  # noqa: BLE001 - a defect of ours costs this answer, never the process
            self._say(f"{type(error).__name__}: {error}")
            return _http(500, PLAIN, b"this process cannot tell its figures: see its log\n")

    def answer(self, line: bytes) -> bytes:
        """What the first line of a request is answered with."""
        words = line.decode("latin-1").split(" ")
        if len(words) != 3 or not words[2].startswith("HTTP/1."):
            return _http(400, PLAIN, b"not a request of HTTP/1\n")
        method, path = words[0], words[1].split("?")[0]
        if method not in ("GET", "HEAD"):
            return _http(405, PLAIN, b"GET /metrics or GET /health\n")
        if path == "/metrics":
            answer = 200, CONTENT_TYPE_PLAIN_0_0_4, self._metrics()
        elif path == "/health":
            health = self._pulse.health()
            answer = (200 if health.well else 503), JSON, json.dumps(health.said).encode() + b"\n"
        else:
            answer = 404, PLAIN, b"there are /metrics and /health\n"
        return _http(*answer, with_body=method == "GET")

    def _metrics(self) -> bytes:
        now = time.monotonic()
        if now - self._text_at >= TEXT_SECONDS:
            self._text, self._text_at = generate_latest(self.registry), now
        return self._text

    def _say(self, reason: str) -> None:
        if not self._failed:
            self._failed = True
            log.warning("exporter_failed", reason=reason, told="once")


@contextlib.contextmanager
def exporting(
    config: MetricsConfig,
    folder: Path,
    name: str,
    table: Sequence[Measure],
    pulse: Pulse,
    *,
    more: Callable[[], Mapping[str, Value]] = dict,
) -> Iterator[Exporter]:
    """Figures served within, unless the configuration says otherwise. Arguments as `Exporter`'s."""
    exporter = Exporter(config, folder, name, table, pulse, more=more)
    try:
        yield exporter.start() if config.serve else exporter
    finally:
        exporter.close()


def _bound(host: str, port: int) -> socket.socket:
    listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setblocking(False)
    return listening


def _http(status: int, kind: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
