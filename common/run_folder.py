"""What a run's folder says of its run to who reads it afterwards: its configuration, its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from common.checkpoint import TOKENIZER, folder_of, published_versions
from common.errors import UsageError

CONFIG = "config.yaml"


def config_words(run: Path, words: Sequence[str]) -> list[str]:
    """A command's words with the run's own configuration below them, unless they name another or the run has none."""
    named = any(word.partition("=")[0] == "--config" for word in words)
    file = run / CONFIG
    return list(words) if named or not file.is_file() else ["--config", str(file), *words]


def tokenizer_folder(run: Path) -> Path:
    """A folder with the tokenizer of a run, which all of its versions share.

    Raises UsageError: the run has none; the message says what to name instead.
    """
    folders = [folder_of(run / "checkpoints", version) for version in reversed(published_versions(run / "checkpoints"))]
    for folder in [*folders, run / "model", *_model_of(run / CONFIG)]:
        if (folder / TOKENIZER).is_file():
            return folder
    raise UsageError(f"{run}: neither its checkpoints nor its model has a {TOKENIZER}: name one with --model FOLDER")


def _model_of(config: Path) -> list[Path]:
    """The folder of `learner.model.path`, where a configuration names one."""
    try:
        tree = yaml.safe_load(config.read_text(encoding="utf-8"))
        return [Path(tree["learner"]["model"]["path"])]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return []
