"""Configuration: one YAML file with a section per part, dotted overrides, unknown keys refused by name.

Each part declares its own section as a frozen model beside the code that it configures; `load` resolves the sections that
one command owns and passes over the other side's. Runtime objects are passed apart from configuration.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import UsageError

ALL_SECTIONS = ("run", "link", "world", "actor", "learner", "demo")
T = TypeVar("T", bound=BaseModel)


class Section(BaseModel):
    """What all sections share: frozen, no unknown key, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class RunConfig(Section):
    """Which run this is. Both sides read it."""

    folder: Path = Field(default=Path("runs/run"), description="folder of the run's files, made when missing", examples=["runs/tiny"])
    seed: int = Field(default=1, ge=0, description="every random choice comes from it", examples=[1])
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$", description="least level logged", examples=["info"])


class LinkConfig(Section):
    """Where the gateway listens and actors connect. Both sides read it."""

    host: str = Field(default="127.0.0.1", description="address to bind (learner) or connect to (actor)", examples=["10.0.0.1"])
    port: int = Field(default=7777, ge=0, le=65535, description="TCP port for leases, trajectories and heartbeats; 0 lets the learner choose", examples=[7777])
    files_port: int = Field(default=7778, ge=0, le=65535, description="TCP port for checkpoint files; 0 lets the learner choose", examples=[7778])
    keys: Path = Field(default=Path("keys"), description="folder with this side's CURVE keys (`loop keys new`)", examples=["runs/tiny/keys"])
    heartbeat_seconds: float = Field(default=2.0, gt=0, le=600, description="interval of heartbeats, seconds", examples=[2.0])
    silence_intervals: int = Field(default=3, ge=2, description="missed heartbeats after which a peer counts as gone, count", examples=[3])


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
    from_file = _read_yaml(config_file) if config_file is not None else {}
    for name in from_file:
        if name not in ALL_SECTIONS:
            raise UsageError(f"{config_file}: unknown section '{name}'{_nearest(name, ALL_SECTIONS)}")
    tree: dict[str, Any] = {name: dict(from_file.get(name) or {}) for name in sections}
    source = {name: str(config_file) for name in from_file}
    _check_keys(tree, sections, lambda path: f"{source.get(path[0], 'config')}: unknown key '{'.'.join(path)}'")
    for path, text in _parse_overrides(overrides):
        _set(tree, sections, path, text)
    resolved = Loaded()
    for name, model in sections.items():
        try:
            resolved[name] = model.model_validate(tree[name])
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join((name, *(str(part) for part in first["loc"])))
            shown = "" if first["type"] == "missing" else f" (got {first['input']!r})"
            raise UsageError(f"{where}: {first['msg']}{shown}; see --help") from None
    return resolved


def dump(resolved: Mapping[str, BaseModel]) -> str:
    """The resolved sections as YAML that `load` reads again to the same values."""
    return yaml.safe_dump({name: section.model_dump(mode="json") for name, section in resolved.items()}, sort_keys=False)


def describe(sections: Mapping[str, type[Section]]) -> str:
    """The options of a command, a line each: dotted name, default, meaning with its unit."""
    lines = []
    for path, field in _leaves(sections):
        default = field.get_default(call_default_factory=True)
        shown = f"(default {default})" if default not in (None, "", ()) else ""
        lines.append(f"  --{'.'.join(path)}\n        {field.description} {shown}".rstrip())
    return "\n".join(lines)


def _leaves(sections: Mapping[str, type[BaseModel]], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
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


def _check_keys(tree: Mapping[str, Any], models: Mapping[str, type[BaseModel]], complain: Any, above: tuple[str, ...] = ()) -> None:
    for name, value in tree.items():
        fields = models[name].model_fields
        for key, inner in value.items():
            if key not in fields:
                raise UsageError(complain((*above, name, key)) + _nearest(key, fields))
            nested = _nested(fields[key].annotation)
            if nested is not None and isinstance(inner, dict):
                _check_keys({key: inner}, {key: nested}, lambda path: complain((*above, name, *path)))  # noqa: B023 - called at once


def _parse_overrides(overrides: Sequence[str]) -> Iterator[tuple[tuple[str, ...], str]]:
    rest = list(overrides)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--") or "." not in word:
            raise UsageError(f"unexpected argument '{word}': options are --config FILE and dotted ones like --run.seed 3; see --help")
        name, equals, text = word[2:].partition("=")
        if not equals:
            if not rest:
                raise UsageError(f"--{name}: a value is missing")
            text = rest.pop(0)
        yield tuple(name.split(".")), text


def _set(tree: dict[str, Any], models: Mapping[str, type[BaseModel]], path: tuple[str, ...], text: str) -> None:
    where, known, model = tree, models, None
    for depth, key in enumerate(path):
        names = list(known) if model is None else list(model.model_fields)
        if key not in names:
            raise UsageError(f"--{'.'.join(path)}: unknown key '{'.'.join(path[: depth + 1])}'{_nearest(key, names)}")
        nested = known[key] if model is None else _nested(model.model_fields[key].annotation)
        if depth == len(path) - 1:
            if nested is not None:
                raise UsageError(f"--{'.'.join(path)}: names a section; set one of {', '.join(nested.model_fields)}")
            where[key] = yaml.safe_load(text) if text.strip() else text
            return
        if nested is None:
            raise UsageError(f"--{'.'.join(path)}: '{'.'.join(path[: depth + 1])}' has no keys below it")
        where[key] = dict(where.get(key) or {})
        where, model = where[key], nested


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(str(name), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; known are {', '.join(str(k) for k in known)}"


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
    sys.stdout.write(f"{usage}\n\n  --config FILE\n        YAML with sections {', '.join(sections)}\n{flag_lines}\n{describe(sections)}\n")
    raise SystemExit(0)
