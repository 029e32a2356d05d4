"""AppWorld's own HTTP server, for the benchmark: `appworld serve environment`, as many as workers.

The command itself listens on all interfaces without authentication; here the same app listens on the loopback alone.
A server holds one world at a time. Connections are plain HTTP/1.1 over asyncio, one kept open by each worker.
"""

import asyncio
import json
import os
import re
import socket
import tempfile
import time
from pathlib import Path

SERVE = (
    "import sys, uvicorn\n"
    "from appworld.serve.environment import app\n"
    "uvicorn.run(app, fd=int(sys.argv[1]), log_level='error')"
)
START_SECONDS = 600.0


class Server:
    """One server process, and its worker's connection."""

    def __init__(self, process, reader, writer):
        self.process, self.reader, self.writer = process, reader, writer

    @classmethod
    async def start(cls, python, root, folder):
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            port = listening.getsockname()[1]
            process = await asyncio.create_subprocess_exec(
                *(str(python), "-P", "-s", "-c", SERVE, str(listening.fileno())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=[listening.fileno()],
                cwd=folder,
                env={
                    "LANG": "C.UTF-8",
                    "PYTHONHASHSEED": "0",
                    "APPWORLD_ROOT": str(root),
                    "APPWORLD_CACHE": folder,
                    "IPYTHONDIR": folder,
                    "HOME": folder,
                },
            )
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        return cls(process, reader, writer)

    async def ask(self, path, **fields):
        """The output of one request. AssertionError: it was not answered well."""
        body = json.dumps(fields).encode()
        head = (
            f"POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self.writer.write(head.encode() + body)
        told = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        length = int(re.search(r"content-length: (\d+)", told, re.IGNORECASE)[1])
        answer = await self.reader.readexactly(length)
        assert told.split()[1] == "200", answer[:500]
        return json.loads(answer)["output"]

    async def play(self, episode, name):
        """One episode; whether all of its tests passed."""
        task = episode["task"]
        await self.ask("initialize", task_id=task, experiment_name=name)
        for cell in episode["cells"]:
            await self.ask("execute", task_id=task, code=cell)
        verdict = await self.ask("evaluate", task_id=task, suppress_errors=True)
        await self.ask("close", task_id=task)
        return verdict["success"]

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self):
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        return int(re.search(r"^Pss:\s+(\d+)", text, re.MULTILINE)[1]) / 1024

    async def stop(self):
        self.writer.close()
        self.process.kill()
        await self.process.wait()


async def measure(python, root, chosen, count, episodes):
    """`episodes` episodes by `count` servers with a worker each; every server has played one before."""
    with tempfile.TemporaryDirectory() as folder:
        view = Path(folder) / "root"
        view.mkdir()
        (view / "data").symlink_to(root / "full" / "data")
        since, servers = time.monotonic(), []
        async with asyncio.timeout(START_SECONDS):
            try:
                for _ in range(count):  # one by one: what has been started is stopped, whatever the next one does
                    servers.append(await Server.start(python, view, folder))  # noqa: PERF401
                firsts = (server.play(chosen[0], f"first{at}") for at, server in enumerate(servers))
                right = await asyncio.gather(*firsts)
                cold = time.monotonic() - since
                return {"cold_seconds": round(cold, 1), **await _played(servers, chosen, max(count, episodes), right)}
            finally:
                await asyncio.gather(*(server.stop() for server in servers))


async def _played(servers, chosen, episodes, right):
    numbers = iter(range(episodes))

    async def worker(server):
        for number in numbers:
            right.append(await server.play(chosen[number % len(chosen)], f"episode{number}"))

    before, since = sum(server.cpu_seconds() for server in servers), time.monotonic()
    await asyncio.gather(*(worker(server) for server in servers))
    wall, cpu = time.monotonic() - since, sum(server.cpu_seconds() for server in servers) - before
    return {
        "servers": len(servers),
        "episodes": episodes,
        "all_right": all(right),
        "episodes_per_second": round(episodes / wall, 2),
        "core_ms_per_episode": round(1e3 * cpu / episodes, 1),
        "mb": round(sum(server.megabytes() for server in servers)),
    }
