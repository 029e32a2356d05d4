"""A process that does of an actor's life what concerns files: `fetch VERSION DIGEST` and `keep VERSION` on its input.

Says `fetched FOLDER` or `failed REASON` for a fetch, `kept` for the other; its log goes to standard error.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import structlog

import actor.version_folders
from actor.versions import Versions, source_of
from common.config import LinkConfig
from common.errors import RunError
from common.file_link import FileLink
from common.keys import actor_keys

ROOT = Path(__file__).resolve().parents[2]


class FetchingActor:
    """Such a process, from outside."""

    def __init__(self, keys, folder, *, port=0, name="actor-0", shared=None, run_id="run", stuck_after=30.0):
        given = {"keys": keys, "folder": folder, "port": port, "name": name, "shared": shared, "run_id": run_id}
        given["stuck_after"] = stuck_after
        self.port = port
        words = json.dumps({key: str(value) if isinstance(value, Path) else value for key, value in given.items()})
        self.process = subprocess.Popen(
            [sys.executable, __file__, words],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PATH": ""},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def say(self, *words):
        self.process.stdin.write(" ".join(map(str, words)) + "\n")
        self.process.stdin.flush()

    async def answer(self):
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, self.process.stderr.read()
        return line.split(None, 1)[0], line.split(None, 1)[-1].strip()

    async def fetch(self, version, digest):
        self.say("fetch", version, digest)
        return await self.answer()

    async def logged(self, event):
        """Until its log has a line with this event; gives the line."""
        while True:
            line = await asyncio.to_thread(self.process.stderr.readline)
            assert line, f"ended without {event}"
            if event in line:
                return line

    def end(self):
        self.process.kill()
        self.process.communicate()


async def serve(options):
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    actor.version_folders.STUCK_AFTER = options["stuck_after"]
    link = LinkConfig(files_port=options["port"] or 1, keys=options["keys"], heartbeat_seconds=0.2)
    files = FileLink(link, actor_keys(Path(options["keys"]), options["name"]))
    shared = Path(options["shared"]) if options["shared"] else None
    versions = Versions(source_of(shared, Path(options["folder"]), options["run_id"], files), options["run_id"])
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        if words[0] == "fetch":
            versions.heard(int(words[1]), words[2])
            try:
                folder, _ = await versions.fetch(int(words[1]), words[2])
                print("fetched", folder, flush=True)
            except RunError as error:
                print("failed", error, flush=True)
        else:
            await versions.keep_only({int(words[1])})
            print("kept .", flush=True)
    await files.close()


if __name__ == "__main__":
    asyncio.run(serve(json.loads(sys.argv[1])))
