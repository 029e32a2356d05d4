"""`loop status`: asks a run's gateway over the link how it does, and shows it; once, or every two seconds."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from common.config import LinkConfig, Loaded, RunConfig, Section, parse_command_line
from common.errors import RunError, UsageError
from common.log import configure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from common.keys import ActorKeys
    from common.status_messages import Status

USAGE = """usage: loop status [RUN] [--watch] [--json] [--key NAME] [--config FILE] [--section.key value ...]

How a run does, asked of its learner over the link: what it waits for, versions and lags, actors, groups, disk, the last
errors, the books. Exit code 0: answered, 1: unreachable or not let in, 2: wrong usage.

  RUN
        run folder: its gateway.json says where the learner listens, its config.yaml and keys how to ask
  --key NAME
        the key to ask with: NAME.secret in link.keys (default: learner.secret where there is one, else the first)"""
FLAGS = {
    "watch": "again every 2 seconds, also while the learner restarts, until interrupted",
    "json": "one JSON object on standard output; with --watch one a line",
}
SECTIONS: dict[str, type[Section]] = {"run": RunConfig, "link": LinkConfig}
WATCH_SECONDS = 2.0
LEAST_PATIENCE = 3.0  # seconds
ADDRESS = "gateway.json"
ANY_ADDRESS = ("0.0.0.0", "::", "*", "")  # noqa: S104 - what a gateway may listen on; asked on this machine


def main(argv: Sequence[str]) -> int:
    """Ask and show. Raises UsageError: no such run, no key. RunError: unreachable, or not let in."""
    words, folder, key = _take_words(argv)
    if folder is not None:
        # imported when used: `--help` does without it
        from common.run_folder import config_words  # noqa: PLC0415

        words = config_words(folder, words)
    loaded, flags = parse_command_line(SECTIONS, words, usage=USAGE, flags=FLAGS)
    where = Where(loaded, folder, key, explicit=any(word.startswith(("--link.host", "--link.port")) for word in words))
    configure("status", level="error")
    where.link()  # what is wrong with it is said at once
    where.keys()
    try:
        if flags["watch"]:
            asyncio.run(_watch(where, as_json=flags["json"]))
        status = asyncio.run(_once(where))
    except KeyboardInterrupt:
        return 0
    _show(status, as_json=flags["json"])
    return 0


def _take_words(argv: Sequence[str]) -> tuple[list[str], Path | None, str]:
    """The words without RUN and `--key NAME`, and these two."""
    rest: list[str] = []
    folder, key = None, ""
    words = [part for word in argv for part in (word.split("=", 1) if word.startswith("--key=") else [word])]
    while words:
        word = words.pop(0)
        if word == "--key":
            if not words:
                raise UsageError("--key: a value is missing")
            key = words.pop(0)
        elif not word.startswith("-") and folder is None:
            folder = Path(word)
        else:
            rest.append(word)
            if word.startswith("--") and "=" not in word and word[2:] not in (*FLAGS, "help", "insecure") and words:
                rest.append(words.pop(0))
    return rest, folder, key


@dataclass(frozen=True)
class Where:
    """Where a run's gateway listens and with which keys it is asked, as the disk says it now.

    Args:
        loaded: sections `run` and `link`.
        folder: the run folder that was named; None: that of the configuration, if a learner has listened there.
        key: the name of the key to ask with; empty: which there is.
        explicit: whether host or port were given, and count.
    """

    loaded: Loaded
    folder: Path | None
    key: str
    explicit: bool

    @property
    def run(self) -> Path:
        return self.folder or self.loaded.section("run", RunConfig).folder

    def link(self) -> LinkConfig:
        """With the address that the gateway told last. Raises UsageError: there is no such run."""
        link = self.loaded.section("link", LinkConfig)
        file = self.run / ADDRESS
        if self.explicit:
            return link
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            host, port = str(told["host"]), int(told["port"])
        except FileNotFoundError:
            if self.folder is None and link.port:
                return link
            reason = "no such folder" if not self.run.is_dir() else f"no {ADDRESS} in it: no learner has listened there"
            raise UsageError(f"{self.run}: {reason}; name a run folder, or --link.host and --link.port") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(
                f"{file}: does not say where the learner listens ({error}); see link.host, link.port"
            ) from None
        return link.model_copy(update={"host": "127.0.0.1" if host in ANY_ADDRESS else host, "port": port})

    def keys(self) -> ActorKeys | None:
        """None: an insecure link. Raises UsageError: a key is missing, and which."""
        from common.keys import LEARNER, actor_keys  # noqa: PLC0415 - brings ZeroMQ; `--help` does without

        link = self.loaded.section("link", LinkConfig)
        if link.insecure:
            return None
        folder = next((one for one in (link.keys, self.run / "keys") if one.is_dir()), None)
        if folder is None:
            raise UsageError(f"{link.keys}: no such folder of keys; name that of this machine with --link.keys")
        if self.key:
            return actor_keys(folder, self.key)
        found = sorted(file.stem for file in folder.glob("*.secret"))
        if not found:
            raise UsageError(
                f"{folder}: no secret key there: name the folder of the learner's or an actor's key with --link.keys"
            )
        return actor_keys(folder, LEARNER if LEARNER in found else found[0])

    def patience(self) -> float:
        """Seconds that an answer may take."""
        link = self.loaded.section("link", LinkConfig)
        return max(LEAST_PATIENCE, link.heartbeat_seconds * link.silence_intervals)


async def _once(where: Where) -> Status:
    async for answer in _answers(where):
        if isinstance(answer, RunError):
            raise answer
        return answer
    raise AssertionError("answers never end")


async def _answers(where: Where) -> AsyncIterator[Status | RunError]:
    """Answers, as fast as they are asked for; where nobody answers, why. The address and keys are read each time."""
    from common.status_link import StatusLink, Unreachable  # noqa: PLC0415

    link: StatusLink | None = None
    asked: tuple[LinkConfig, ActorKeys | None] | None = None
    try:
        while True:
            now = where.link(), where.keys()
            if link is None or asked != now:
                if link is not None:
                    link.close()
                link, asked = StatusLink(*now), now
            try:
                yield await link.ask(where.patience())
            except Unreachable as error:
                yield error
    finally:
        if link is not None:
            link.close()


async def _watch(where: Where, *, as_json: bool) -> NoReturn:
    """Until interrupted. Raises RunError: not let in."""
    last: Status | None = None
    heard_at = time.monotonic()
    with _screen(as_json=as_json) as show:
        async for answer in _answers(where):
            if isinstance(answer, RunError):
                show(last, f"{answer} (last heard {time.monotonic() - heard_at:.0f} s ago)" if last else str(answer))
            else:
                last, heard_at = answer, time.monotonic()
                show(last, "")
            await asyncio.sleep(WATCH_SECONDS)
    raise AssertionError("answers never end")


@contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[Status | None, str], None]]:
    """What shows a picture, or why there is none: redrawn on a terminal, one after the other elsewhere."""
    from rich.console import Console  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from common.status_view import view  # noqa: PLC0415

    console = Console()
    live = Live(console=console, auto_refresh=False, screen=True) if console.is_terminal and not as_json else None

    def show(status: Status | None, lacking: str) -> None:
        if live is not None:
            live.update(view(status, lacking), refresh=True)
        elif lacking:
            sys.stderr.write(f"loop status: {lacking}\n")
        elif status is not None:
            _show(status, as_json=as_json)

    with live if live is not None else nullcontext():
        yield show


def _show(status: Status, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(status.model_dump(mode="json", exclude={"kind"})) + "\n")
        sys.stdout.flush()
        return
    from rich.console import Console  # noqa: PLC0415

    from common.status_view import WIDTH, view  # noqa: PLC0415

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)  # for a file or a pipe nothing is left out
    console.print(view(status))
