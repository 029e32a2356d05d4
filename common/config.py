"""Configuration: one YAML file with a section per part, dotted overrides, unknown keys refused by name.

Each part declares its own section as a frozen model beside the code that it configures; `load` resolves the sections
that one command owns and passes over the other side's. Runtime objects are passed apart from configuration.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import ipaddress
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn, Self, TypedDict, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from common.errors import UsageError

# every section and where its model stands; imported by name when a command needs all of them (`loop demo`)
SECTION_MODELS = {
    "run": "common.config:RunConfig",
    "link": "common.config:LinkConfig",
    "metrics": "common.metrics_config:MetricsConfig",
    "prompt": "common.prompt_config:PromptConfig",
    "world": "actor.config:WorldConfig",
    "actor": "actor.config:ActorConfig",
    "evaluate": "actor.evaluate_config:EvaluateConfig",
    "learner": "learner.config:LearnerConfig",
    "demo": "common.demo:DemoConfig",
}
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """What all sections share: frozen, no unknown key, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LogOptions(TypedDict):
    """Where a process of a run logs to."""

    file: Path
    level: str
    most_bytes: int
    kept: int


class RunConfig(Section):
    """Which run this is. Both sides read it."""

    folder: Path = Field(
        default=Path("runs/run"), description="folder of the run's files, made when missing", examples=["runs/tiny"]
    )
    seed: int = Field(default=1, ge=0, description="every random choice comes from it", examples=[1])
    log_level: str = Field(
        default="info", pattern="^(debug|info|warning|error)$", description="least level logged", examples=["info"]
    )
    log_bytes: int = Field(
        default=67_108_864,
        ge=4096,
        description="size at which a log file is set aside as FILE.1, bytes; each process has a file of its own",
        examples=[67_108_864],
    )
    log_files: int = Field(
        default=4,
        ge=0,
        description="log files that were set aside and are kept, FILE.1 (the newest) and on, count",
        examples=[4],
    )

    def log(self, name: str) -> LogOptions:
        """What `common.log.configure` is told of the log file `name` in the run's folder."""
        return {
            "file": self.folder / "logs" / f"{name}.jsonl",
            "level": self.log_level,
            "most_bytes": self.log_bytes,
            "kept": self.log_files,
        }


class LinkConfig(Section):
    """Where the gateway listens and actors connect. Both sides read it."""

    host: str = Field(
        default="127.0.0.1", description="address to bind (learner) or connect to (actor)", examples=["10.0.0.1"]
    )
    port: int = Field(
        default=7777,
        ge=0,
        le=65535,
        description="TCP port for leases, trajectories and heartbeats; 0 lets the learner choose",
        examples=[7777],
    )
    files_port: int = Field(
        default=7778,
        ge=0,
        le=65535,
        description="TCP port for checkpoint files; 0 lets the learner choose",
        examples=[7778],
    )
    keys: Path = Field(
        default=Path("keys"),
        description="folder with this side's CURVE keys (`loop keys new`); what systemd loads as credentials of the "
        "same names comes first",
        examples=["runs/tiny/keys"],
    )
    shared_folder: Path | None = Field(
        default=None,
        description="for actors: the learner's checkpoints folder where it is mounted here, read in place of downloads",
        examples=["/mnt/runs/tiny/checkpoints"],
    )
    insecure: bool = Field(
        default=False,
        description="no encryption and no keys, on both sides, where host is loopback alone (also: --insecure)",
        examples=[True],
    )
    heartbeat_seconds: float = Field(
        default=2.0, gt=0, le=600, description="interval of heartbeats, seconds", examples=[2.0]
    )
    silence_intervals: int = Field(
        default=3, ge=2, description="missed heartbeats after which a peer counts as gone, count", examples=[3]
    )
    peer_megabytes: int = Field(
        default=192,
        ge=160,  # the largest message twice, as a resend brings it, and room for others
        description="bytes that one actor may make the gateway hold, sent and not handled yet or not read, MiB; "
        "more, and its connection is cut",
        examples=[192],
    )
    memory_megabytes: int = Field(
        default=1024, ge=160, description="the same for all actors together: the largest is cut, MiB", examples=[1024]
    )
    compression: Literal["none", "zstd"] = Field(
        default="none",
        description="how an actor compresses trajectories before it spools and sends them; the learner takes either",
        examples=["zstd"],
    )
    connections: int = Field(
        default=4096,
        ge=8,
        description="connections to both ports at a time (an actor has two), count; beyond it strangers are cut first",
        examples=[4096],
    )

    @model_validator(mode="after")
    def stays_on_this_machine(self) -> Self:
        """An insecure link is for loopback alone."""
        if self.insecure and not is_loopback(self.host):
            raise ValueError(f"insecure is for loopback alone, not for host {self.host}: make keys (`loop keys new`)")
        if self.memory_megabytes < self.peer_megabytes:
            raise ValueError("memory_megabytes must not be below peer_megabytes")
        return self


def is_loopback(host: str) -> bool:
    """Whether an address or name means this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Loaded(dict[str, Any]):
    """Resolved sections by name; `section` gives one with its type."""

    def section(self, name: str, kind: type[T]) -> T:
        value = self[name]
        assert isinstance(value, kind)
        return value


def load(sections: Mapping[str, type[Section]], config_file: Path | None, overrides: Sequence[str]) -> Loaded:
    """Resolve a command's sections from a YAML file and dotted overrides (`--learner.lr 5e-5`), overrides last.

    Raises:
        UsageError: an unreadable file, an unknown key (with the nearest known one), a value that does not fit.
    """
    # imported when used: `--help` does without it
    from pydantic_settings import BaseSettings, CliSettingsSource, InitSettingsSource, SettingsError  # noqa: PLC0415

    from_file = _read_yaml(config_file) if config_file is not None else {}
    known = sorted({*SECTION_MODELS, *sections})
    for name in from_file:
        if name not in known:
            raise UsageError(f"{config_file}: unknown section '{name}'{_nearest(name, known)}")
    own = {name: value or {} for name, value in from_file.items() if name in sections}

    class Settings(BaseSettings):
        model_config = {"extra": "forbid", "frozen": True}

        @classmethod
        def settings_customise_sources(cls, settings_cls: type[BaseSettings], *_: Any, **__: Any) -> Any:
            command_line: CliSettingsSource[Any] = CliSettingsSource(
                settings_cls,
                cli_parse_args=list(overrides),
                cli_exit_on_error=False,
                root_parser=_Parser(sections),
                cli_prog_name="loop",
            )
            return command_line, InitSettingsSource(settings_cls, init_kwargs=own)

    fields: dict[str, Any] = {name: (model, Field(default_factory=model)) for name, model in sections.items()}
    try:
        settings = create_model("Settings", __base__=Settings, **fields)()
    except ValidationError as error:
        raise UsageError(_explain(error, sections, config_file)) from None
    except SettingsError as error:
        raise UsageError(" ".join(str(error).split())) from None
    return Loaded({name: getattr(settings, name) for name in sections})


class _Parser(argparse.ArgumentParser):
    """Refuses what it does not know by name, with the nearest known option."""

    def __init__(self, sections: Mapping[str, type[Section]]) -> None:
        super().__init__(add_help=False, allow_abbrev=False)
        self._sections = sections

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown == message:
            raise UsageError(f"{message}; see --help")
        word = unknown.split()[0].partition("=")[0]
        known = ["--" + ".".join(path) for path, _ in _leaves(self._sections)]
        raise UsageError(f"unknown option '{word}'{_nearest(word, [*known, '--config'], show_all=False)}; see --help")


def _explain(error: ValidationError, sections: Mapping[str, type[Section]], config_file: Path | None) -> str:
    """One line for the first thing that does not fit: where, what, what to do."""
    first = error.errors()[0]
    path = tuple(str(part) for part in first["loc"])
    where = f"{config_file}: " if config_file is not None else ""
    if first["type"] != "extra_forbidden":
        # what fits in no combination is a whole section's fault: its message names the keys, its input is all of them
        is_one_key = first["type"] != "missing" and not isinstance(first["input"], dict | BaseModel)
        shown = f" (got {first['input']!r})" if is_one_key else ""
        return f"{where}{'.'.join(path)}: {first['msg'].removeprefix('Value error, ')}{shown}; see --help"
    model: type[BaseModel] | None = sections[path[0]]
    for key in path[1:-1]:
        model = _nested(model.model_fields[key].annotation) if model is not None else None
    return f"{where}unknown key '{'.'.join(path)}'{_nearest(path[-1], model.model_fields if model is not None else ())}"


def dump(resolved: Mapping[str, BaseModel]) -> str:
    """The resolved sections as YAML that `load` reads again to the same values."""
    return yaml.safe_dump(
        {name: section.model_dump(mode="json") for name, section in resolved.items()}, sort_keys=False
    )


def all_sections() -> dict[str, type[Section]]:
    """The models of every section, for a command that starts both sides and owns them all."""
    found: dict[str, type[Section]] = {}
    for name, place in SECTION_MODELS.items():
        module, _, attribute = place.partition(":")
        found[name] = getattr(importlib.import_module(module), attribute)
    return found


def option_names(sections: Mapping[str, type[Section]]) -> dict[str, Any]:
    """The dotted name of every option with its field, in the order of declaration."""
    return {".".join(path): field for path, field in _leaves(sections)}


def describe(sections: Mapping[str, type[Section]]) -> str:
    """The options of a command, a line each: dotted name, default, meaning with its unit."""
    lines = []
    for path, field in _leaves(sections):
        default = field.get_default(call_default_factory=True)
        shown = f"(default {default})" if default not in (None, "", ()) else ""
        lines.append(f"  --{'.'.join(path)}\n        {field.description} {shown}".rstrip())
    return "\n".join(lines)


def _leaves(
    sections: Mapping[str, type[BaseModel]], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, model in sections.items():
        for key, field in model.model_fields.items():
            nested = _nested(field.annotation)
            if nested is not None:
                yield from _leaves({key: nested}, (*above, name))
            else:
                yield (*above, name, key), field


def _nested(annotation: Any) -> type[BaseModel] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror}: name an existing YAML file with --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not all(isinstance(value, dict | None) for value in tree.values()):
        raise UsageError(f"{file}: a configuration is sections of keys, like 'run: {{seed: 1}}'")
    return tree


def _nearest(name: str, known: Iterable[str], *, show_all: bool = True) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known are {', '.join(names)}" if show_all and names else ""


def parse_command_line(
    sections: Mapping[str, type[Section]], argv: Sequence[str], *, usage: str, flags: Mapping[str, str]
) -> tuple[Loaded, dict[str, bool]]:
    """A command's own flags (`--dry-run`), `--config FILE` and dotted overrides; `--help` prints and exits 0.

    Raises:
        UsageError: as `load`.
    """
    rest: list[str] = []
    given = dict.fromkeys(flags, False)
    config_file: Path | None = None
    words = list(argv)
    while words:
        word = words.pop(0)
        if word in ("-h", "--help"):
            _print_help(sections, usage, flags)
        elif word.removeprefix("--") in flags:
            given[word.removeprefix("--")] = True
        elif word == "--insecure" and "link" in sections:
            rest += ["--link.insecure", "true"]
        elif word == "--config" or word.startswith("--config="):
            config_file = Path(word.partition("=")[2] or (words.pop(0) if words else _missing("--config")))
        else:
            rest.append(word)
            if word.startswith("--") and "=" not in word and words:
                rest.append(words.pop(0))
    return load(sections, config_file, rest), given


def _missing(option: str) -> NoReturn:
    raise UsageError(f"{option}: a value is missing")


def _print_help(sections: Mapping[str, type[Section]], usage: str, flags: Mapping[str, str]) -> NoReturn:
    flag_lines = "\n".join(f"  --{name}\n        {meaning}" for name, meaning in flags.items())
    config_line = f"  --config FILE\n        YAML with sections {', '.join(sections)}"
    sys.stdout.write("\n".join((usage, "", config_line, flag_lines, describe(sections))) + "\n")
    raise SystemExit(0)
