"""systemd's units of a run from their templates in configs/systemd: what they are told in, texts by file name out.

Nothing here writes a file. Values are quoted as systemd reads them: `%` is doubled everywhere, `$` in commands, and
where several words may stand, a word with blanks or quotes is put into quotes.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import RunError

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).resolve().parent.parent / "configs" / "systemd"
LEARNER, ACTOR, TARGET = "loop-learner.service", "loop-actor@.service", "loop.target"
UNITS = (LEARNER, ACTOR, TARGET)
MARK = re.compile(r"# Written by `loop service install`; sha256 of what follows: ([0-9a-f]{64})")
GPUS = ("/dev/nvidiactl", "/dev/kfd")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What units depend on besides the run."""

    system: bool  # the machine's systemd, not a user's own
    version: int  # of systemd; 0: there is none to ask
    mounts: bool  # a service may have a mount namespace
    gpus: bool
    private_tmp: bool  # nothing that a service needs lies in /tmp or /var/tmp
    user: str  # whom the services run as
    settings: Path  # folder of the environment files


@dataclass(frozen=True, kw_only=True)
class Service:
    """One unit's own."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    folder: Path  # where it runs: relative paths of the configuration are below
    config: Path
    run: str
    keys: Path
    insecure: bool
    writable: tuple[Path, ...]
    drain: int  # seconds that it may take to leave
    stop: int  # seconds after which it is killed
    watchdog: str  # how long it may give no sign of life, as systemd writes times


def render(unit: str, machine: Machine, service: Service | None = None) -> str:
    """A unit's text; its first line says that it is ours, and of which content. The target needs no service.

    Raises:
        RunError: the templates are not where the code is.
    """
    if not (TEMPLATES / f"{unit}.j2").is_file():
        raise RunError(f"{TEMPLATES}: has no template of {unit}: install loop from its repository (`pip install -e .`)")
    about = asdict(service) if service is not None else {}
    flag = "" if machine.system else " --user"
    template = _environment().get_template(f"{unit}.j2")
    body = template.render(
        **about,
        **asdict(machine),
        unit=unit,
        flag=flag,
        root=machine.user == "root",
        worlds=unit == ACTOR,
    )
    return f"{_mark(body)}\n{body}"


def is_ours(text: str) -> bool:
    """Whether a file is as `render` made it: written by us, and not changed since."""
    first, _, body = text.partition("\n")
    return MARK.fullmatch(first) is not None and first == _mark(body)


def systemd_version() -> int:
    """Of the systemd here, 0 where there is none."""
    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return 0
    found = re.match(r"systemd (\d+)", done.stdout)
    return int(found.group(1)) if found else 0


def gives_users_namespaces() -> bool:
    """Whether an ordinary process may make a user namespace here."""
    program = shutil.which("unshare")
    if program is None:
        return False
    return subprocess.run([program, "--user", "true"], capture_output=True, check=False).returncode == 0


def has_gpus() -> bool:
    return any(Path(device).exists() for device in GPUS)


def _mark(body: str) -> str:
    digest = hashlib.sha256(body.encode()).hexdigest()
    return f"# Written by `loop service install`; sha256 of what follows: {digest}"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined  # noqa: PLC0415 - `--help` does without

    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - systemd's quoting, below, and not HTML's
    )
    made.filters.update(plain=_plain, quoted=_quoted, argument=_argument)
    return made


def _plain(value: object) -> str:
    """Where a whole line is one value."""
    return str(value).replace("%", "%%")


def _quoted(value: object) -> str:
    """Where words stand side by side."""
    text = _plain(value)
    if text and not re.search(r"[\s\"'\\;]", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _argument(value: object) -> str:
    """A word of a command, where `$` would name a variable."""
    return _quoted(str(value).replace("$", "$$"))
