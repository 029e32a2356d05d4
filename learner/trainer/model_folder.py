"""What a model folder must hold, told without loading it: `loop learner --dry-run` asks too, free of torch."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import UsageError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def check_folder(folder: Path, *, weights: bool = True) -> None:
    """Raise UsageError, with what is missing, when a folder is plainly not a model with its tokenizer.

    Without `weights` their absence is no error: a run can be planned where they are not.
    """
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder}: not a model folder: it has no config.json; set learner.model.path")
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / 'config.json'}: cannot be read: {' '.join(str(error).split())}") from None
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise UsageError(f"{folder}: has no tokenizer ({', '.join(TOKENIZER_FILES)}); copy the model's own into it")
    if weights and not has_weights(folder):
        raise UsageError(f"{folder}: has no weights (*.safetensors)")


def has_weights(folder: Path) -> bool:
    """Whether there are any."""
    return any(folder.glob("*.safetensors"))
