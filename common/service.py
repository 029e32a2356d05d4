"""`loop service`: writes systemd's units for this machine's part of a run, and removes them again.

    configuration, keys, paths ─► checked ─► units.render ─► unit files ─► the systemctl commands to run next

It starts and stops nothing. What it has not written, or what was changed since, it neither replaces nor removes.
"""

from __future__ import annotations

import argparse
import getpass
import importlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.cache import cache_folder
from common.config import LinkConfig, Loaded, RunConfig, Section, all_sections, load
from common.errors import RunError, UsageError
from common.keys import NAME, actor_keys, learner_keys
from common.units import (
    ACTOR,
    LEARNER,
    TARGET,
    UNITS,
    Machine,
    Service,
    gives_users_namespaces,
    has_gpus,
    is_ours,
    render,
    systemd_version,
)

SECTIONS = {LEARNER: "learner.config", ACTOR: "actor.cli"}  # where a side's sections are declared
LEARNER_WATCHDOG, ACTOR_WATCHDOG = "15min", "3min"
LEAVING_SECONDS = 30  # beyond what an actor's configuration gives its episodes and its spool; all that a learner takes
TEMPORARY = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - what PrivateTmp= replaces
PACKAGES = ("site-packages", "dist-packages")


def main(argv: Sequence[str]) -> int:
    """`loop service install|uninstall`. Raises UsageError (what is missing, a file that is not ours), RunError."""
    words, overrides = _take_overrides(argv)
    options = _parser().parse_args(words)
    folder = options.into or unit_folder(system=options.system)
    if options.command == "uninstall":
        if overrides:
            raise UsageError(f"{overrides[0]}: uninstall takes no options of the configuration")
        return _uninstall(folder, options)
    return _install(folder, options, overrides)


def unit_folder(*, system: bool) -> Path:
    """Where systemd looks for what an administrator, or a user, adds."""
    if system:
        return Path("/etc/systemd/system")
    return _user_config() / "systemd" / "user"


def _user_config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")


def _parser() -> argparse.ArgumentParser:
    about = "systemd units for this machine's part of a run: learner, actors, a target over both"
    parser = argparse.ArgumentParser(prog="loop service", description=about)
    commands = parser.add_subparsers(dest="command", required=True, metavar="install|uninstall")
    for command, meaning in (
        ("install", "write the units with the paths of this machine, and say what to run next"),
        ("uninstall", "remove what install wrote"),
    ):
        added = commands.add_parser(command, help=meaning, description=meaning, allow_abbrev=False)
        which = added.add_mutually_exclusive_group(required=True)
        which.add_argument("--user", action="store_true", help="units of your own systemd (~/.config/systemd/user)")
        which.add_argument("--system", action="store_true", help="units of the machine's (/etc/systemd/system)")
        added.add_argument("--into", type=Path, metavar="FOLDER", help="another folder for the unit files")
        added.add_argument("--dry-run", action="store_true", help="show what would be done, change nothing")
        added.add_argument("--json", action="store_true", help="one JSON object on standard output")
        if command == "install":
            added.add_argument(
                "parts",
                nargs="*",
                metavar="PART",
                help="learner, actor@0, actor@1, ...: what runs here (default: whose secret keys lie in link.keys)",
            )
            added.add_argument("--config", type=Path, metavar="FILE", help="the run's configuration; required")
            added.add_argument("--nproc", type=int, metavar="N", help="processes of the trainer, as of loop learner")
            added.add_argument(
                "--run-as",
                metavar="NAME",
                help="with --system, the user of the services (default: who called sudo, else who runs this)",
            )
            added.epilog = "Options of the configuration, such as --run.folder runs/first, go into the units' commands."
    return parser


def _take_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and the dotted options with their values."""
    words: list[str] = []
    overrides: list[str] = []
    left = list(argv)
    while left:
        word = left.pop(0)
        if not re.match(r"--[a-z_]+\.", word):
            words.append(word)
        elif "=" in word or not left:
            overrides.append(word)
        else:
            overrides += [f"{word}={left.pop(0)}"]
    return words, overrides


# ---- install


def _install(folder: Path, options: argparse.Namespace, overrides: list[str]) -> int:
    if options.config is None:
        raise UsageError("--config FILE: a value is missing; the services read the run's configuration from it")
    loaded = load(all_sections(), options.config, overrides)
    instances = _instances(options.parts, loaded.section("link", LinkConfig))
    services = {unit: _service(unit, loaded, options, overrides) for unit in instances}
    machine = _machine(options, services.values())
    units = {unit: render(unit, machine, service) for unit, service in services.items()}
    units[TARGET] = render(TARGET, machine)
    names = [name for unit in instances for name in instances[unit]]
    before = {unit: _text_of(folder / unit) for unit in units}
    for unit, text in before.items():
        if text and not is_ours(text):
            raise UsageError(
                f"{folder / unit}: was not written by `loop service install`, or changed since: move it away "
                "(what you changed belongs into a drop-in, `systemctl edit`)"
            )
    if not options.dry_run:
        _write(folder, units)
        _make(sorted({path for service in services.values() for path in service.writable}), machine)
    changed = any(text and text != units[unit] for unit, text in before.items())
    _say_installed(folder, units, _next(machine, names, changed=changed), options)
    return 0


def _machine(options: argparse.Namespace, services: Iterable[Service]) -> Machine:
    if options.run_as and not options.system:
        raise UsageError("--run-as: a user's own systemd runs services as that user alone; it goes with --system")
    needed = [Path(sys.executable), Path(__file__).resolve()]
    for service in services:
        needed += [service.folder, service.config, service.keys, *service.writable]
    user = options.run_as or (options.system and os.environ.get("SUDO_USER")) or getpass.getuser()
    return Machine(
        system=options.system,
        version=systemd_version(),
        mounts=options.system or gives_users_namespaces(),
        gpus=has_gpus(),
        private_tmp=not any(path.is_relative_to(folder) for path in needed for folder in TEMPORARY),
        user=user,
        settings=Path("/etc/loop") if options.system else _user_config() / "loop",
    )


def _instances(parts: Sequence[str], link: LinkConfig) -> dict[str, list[str]]:
    """Names of the units to enable, by unit file. Raises UsageError: a part that is none, a key that lacks."""
    chosen = list(dict.fromkeys(parts)) or _parts_with_keys(link)
    found: dict[str, list[str]] = {}
    for part in chosen:
        kind, _, instance = part.partition("@")
        if part == "learner":
            found[LEARNER] = [LEARNER]
            if not link.insecure:
                learner_keys(link.keys)
        elif kind == "actor" and NAME.fullmatch(f"actor-{instance}") and instance:
            found.setdefault(ACTOR, []).append(f"loop-actor@{instance}.service")
            if not link.insecure:
                actor_keys(link.keys, f"actor-{instance}")
        else:
            raise UsageError(f"'{part}' is no part of a run: say learner, or actor@0 for the actor named actor-0")
    return found


def _parts_with_keys(link: LinkConfig) -> list[str]:
    """What this machine has the secrets of. Raises UsageError: of nothing."""
    if link.insecure:
        return ["learner", "actor@0"]
    secrets = sorted(file.stem for file in link.keys.glob("*.secret"))
    parts = [name.replace("-", "@", 1) for name in secrets if name == "learner" or name.startswith("actor-")]
    if not parts:
        raise UsageError(
            f"{link.keys}: has no secret key of a learner or an actor: make one with "
            f"`loop keys new learner --folder {link.keys}`, or copy actor-0.secret and learner.public there"
        )
    return parts


def _service(unit: str, loaded: Loaded, options: argparse.Namespace, overrides: Sequence[str]) -> Service:
    run, link = loaded.section("run", RunConfig), loaded.section("link", LinkConfig)
    here = Path.cwd()
    known: dict[str, type[Section]] = importlib.import_module(SECTIONS[unit]).SECTIONS
    own = [word for word in overrides if word.removeprefix("--").partition(".")[0] in known]
    side = "learner" if unit == LEARNER else "actor"
    ranks = ["--nproc", str(options.nproc)] if options.nproc and unit == LEARNER else []
    command = [sys.executable, "-m", "common.cli", side, "--config", str(options.config.absolute()), *own, *ranks]
    cache = cache_folder()
    writable, drain = [run.folder, cache], 0
    if unit == ACTOR:
        if link.port == 0 or link.files_port == 0:
            raise UsageError("link.port, link.files_port: an actor needs the ports of its learner; 0 names none")
        actor: Any = loaded["actor"]
        writable += [path for path in (actor.folder, actor.versions) if path is not None]
        drain = math.ceil(actor.drain_seconds + actor.flush_seconds)
    for path in (options.config, here, link.keys, cache, *writable):
        if not str(path).isprintable():
            raise UsageError(f"{str(path)!r}: systemd takes no such characters in a path: give it another name")
    return Service(
        command=tuple(command),
        environment=_environment(cache),
        folder=here,
        config=options.config.absolute(),
        run=run.folder.name,
        keys=link.keys.absolute(),
        insecure=link.insecure,
        writable=tuple(dict.fromkeys(path.absolute() for path in writable)),
        drain=drain,
        stop=drain + LEAVING_SECONDS,
        watchdog=LEARNER_WATCHDOG if unit == LEARNER else ACTOR_WATCHDOG,
    )


def _environment(cache: Path) -> dict[str, str]:
    """Variables that a service needs, since it has none of this shell's: where the code is, where caches may be."""
    code = Path(__file__).resolve().parent.parent
    found = {
        "PYTHONUNBUFFERED": "1",
        "PYTHONFAULTHANDLER": "1",  # where it stood, when systemd's watchdog ends it
        "LOOP_CACHE": str(cache),
        # caches of vLLM, Triton and CUDA, which would lie in a home that it cannot write
        "XDG_CACHE_HOME": str(cache / "others"),
        "TRITON_HOME": str(cache / "others"),
        "CUDA_CACHE_PATH": str(cache / "others" / "cuda"),
    }
    installed = any(part in PACKAGES for part in code.parts)
    return found if installed else {"PYTHONPATH": str(code), **found}


def _text_of(file: Path) -> str:
    """A unit's text, or "" where there is none."""
    try:
        return file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read: {error}") from None


def _write(folder: Path, units: dict[str, str]) -> None:
    """Each whole or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for unit, text in units.items():
            draft = folder / f".{unit}.draft"
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o644)
            draft.rename(folder / unit)
    except OSError as error:
        way = "run it with sudo, or with --user" if isinstance(error, PermissionError) else "see to that"
        raise UsageError(f"{folder}: cannot be written: {error.strerror}; {way}") from None


def _make(folders: Sequence[Path], machine: Machine) -> None:
    """What services write to must be there before they are shut out of all else; it stays when they are uninstalled."""
    for folder in folders:
        if not folder.exists():
            try:
                folder.mkdir(parents=True)
                if machine.user != getpass.getuser():
                    shutil.chown(folder, machine.user)
            except (OSError, LookupError) as error:
                raise RunError(f"{folder}: cannot be made for {machine.user}: {error}") from None


def _next(machine: Machine, names: Sequence[str], *, changed: bool) -> list[str]:
    """Commands for a person to run."""
    systemctl = "systemctl" if machine.system else "systemctl --user"
    journal = "journalctl" if machine.system else "journalctl --user"
    units = " ".join(f"-u {name}" for name in names)
    commands = [f"{systemctl} daemon-reload", f"{systemctl} enable --now {TARGET} {' '.join(names)}"]
    if changed:
        commands.append(f"{systemctl} try-restart {' '.join(names)}")
    if not machine.system:
        commands.append(f"loginctl enable-linger {machine.user}")  # they run while nobody is logged in
    return [*commands, f"{journal} {units} -o cat -f | loop tail"]


def _say_installed(folder: Path, units: dict[str, str], commands: list[str], options: argparse.Namespace) -> None:
    files = {str(folder / unit): text for unit, text in units.items()}
    if options.json:
        sys.stdout.write(json.dumps({"written": not options.dry_run, "units": files, "next": commands}) + "\n")
        return
    for file, text in files.items():
        sys.stdout.write(f"# {file}\n{text}\n" if options.dry_run else f"wrote {file}\n")
    head = "# next, once written:" if options.dry_run else "next:"
    sys.stdout.write("\n".join([head, *(f"{'# ' * options.dry_run}  {command}" for command in commands)]) + "\n")


# ---- uninstall


def _uninstall(folder: Path, options: argparse.Namespace) -> int:
    systemctl = "systemctl" if options.system else "systemctl --user"
    texts = {unit: text for unit in UNITS if (text := _text_of(folder / unit))}
    ours = [unit for unit, text in texts.items() if is_ours(text)]
    enabled = _enabled(folder, ours)
    if enabled:
        raise UsageError(f"{', '.join(enabled)}: enabled; run `{systemctl} disable --now {' '.join(enabled)}` first")
    left = [str(folder / unit) for unit in texts if unit not in ours]
    try:
        for unit in [] if options.dry_run else ours:
            (folder / unit).unlink()
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be removed: {error.strerror}; run it with sudo") from None
    removed, commands = [str(folder / unit) for unit in ours], [f"{systemctl} daemon-reload"] if ours else []
    if options.json:
        report = {"removed": removed, "left": left, "dry_run": options.dry_run, "next": commands}
        sys.stdout.write(json.dumps(report) + "\n")
        return 0
    lines = [f"{'would remove' if options.dry_run else 'removed'} {file}" for file in removed]
    lines += [f"left {file}: not written by `loop service install`, or changed since" for file in left]
    lines += ["next:", *(f"  {command}" for command in commands)] if commands else []
    sys.stdout.write("\n".join(lines or [f"{folder}: nothing of ours is there"]) + "\n")
    return 0


def _enabled(folder: Path, units: Sequence[str]) -> list[str]:
    """Units, and instances of theirs, that some target wants: systemctl's links, which outlive a removed file."""
    stems = {unit.replace("@.", "@") for unit in units}
    links = {link.name for link in folder.glob("*.wants/*")}
    return sorted(name for name in links if re.sub(r"@.*\.", "@", name) in stems)
