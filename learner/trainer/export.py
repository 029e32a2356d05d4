"""`loop learner export`: a published version as a standalone Hugging Face folder, adapters merged into their base.

The version's digests are checked first, and its base's. torch is imported when there is something to merge, not before:
`--help` does without it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.checkpoint import MANIFEST, Manifest, folder_of, published_versions, verify
from common.errors import RunError, UsageError

NOTE = "Exported from policy version {version} of {run}: {how}, stored in {dtype}."


def main(argv: Sequence[str]) -> int:
    """Export one version. Raises UsageError and RunError."""
    parser = argparse.ArgumentParser(
        prog="loop learner export", description="a published version as a standalone Hugging Face folder"
    )
    parser.add_argument("source", type=Path, metavar="RUN_OR_VERSION", help="run folder, or one version's folder")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where to; must not hold anything yet")
    parser.add_argument("--version", type=int, metavar="N", help="policy version of the run; the newest unless given")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), help="stored precision; the base's own unless given"
    )
    options = parser.parse_args(argv)
    folder = version_folder(options.source, options.version)
    manifest, dtype = export(folder, options.out, options.dtype)
    how = "adapter merged into its base" if manifest.kind == "adapter" else "all weights"
    sys.stdout.write(f"{options.out}: version {manifest.policy_version} of {manifest.run_id}, {how}, {dtype}\n")
    return 0


def version_folder(source: Path, version: int | None) -> Path:
    """The folder of the version that is meant: `source` itself, or one of the run in `source`.

    Raises:
        UsageError: it is neither, or the run has no such version.
    """
    if (source / MANIFEST).is_file():
        if version is not None:
            raise UsageError(f"{source}: is one version already: leave out --version, or name the run's folder")
        return source
    there = published_versions(source / "checkpoints")
    if not there:
        raise UsageError(f"{source}: neither a published version nor a run that has one; name a run's folder")
    if version is not None and version not in there:
        raise UsageError(f"{source}: has no version {version}; there are {', '.join(map(str, there))}")
    return folder_of(source / "checkpoints", there[-1] if version is None else version)


def export(folder: Path, out: Path, dtype: str | None) -> tuple[Manifest, str]:
    """Write the version in `folder` to `out`, whole or not at all. Returns its manifest and the stored precision.

    Args:
        folder: of a version; an adapter's base lies beside it.
        out: is made, or empty.
        dtype: stored precision (`float32`, `bfloat16`, `float16`); None: the base's own.

    Raises:
        UsageError: `out` holds something, or cannot be made.
        RunError: a file of the version or of its base is missing or not what its manifest says.
    """
    _refuse_full(out)
    manifest = verify(folder)
    base = folder
    if manifest.base_version is not None:
        base = folder_of(folder.parent, manifest.base_version)
        if not base.is_dir():
            raise RunError(f"{folder}: is an adapter on version {manifest.base_version}, which is not in {base.parent}")
        verify(base)
    stored = stored_dtype(base)
    wanted = dtype or stored
    draft = out.parent / f".draft-{out.name}-{os.getpid()}"
    try:
        draft.mkdir(parents=True)
        if manifest.kind == "full" and wanted == stored:
            how = "all weights as they were published"
            _copy(folder, manifest, draft)
        else:
            how = "adapter merged into its base in float32" if manifest.kind == "adapter" else "all weights converted"
            _convert(folder, base, draft, wanted)
        note = NOTE.format(version=manifest.policy_version, run=manifest.run_id, how=how, dtype=wanted)
        _write_card(folder, draft, note)
        draft.rename(out)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return manifest, wanted


def stored_dtype(folder: Path) -> str:
    """The precision that a model folder's weights are stored in, as torch names it.

    Read from the header of its first file of weights (safetensors: eight bytes of length, then JSON).

    Raises:
        RunError: there are no weights, or of no precision that can be trained.
    """
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for entry in header.values():
            if entry.get("dtype") in names:
                return names[entry["dtype"]]
    raise RunError(f"{folder}: has no weights in {', '.join(names.values())}")


def _refuse_full(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file; name a folder that is not there yet")
    if out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out}: holds something already; name a folder that is not there yet, or empty it")


def _copy(folder: Path, manifest: Manifest, draft: Path) -> None:
    for name in manifest.files:
        (draft / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, draft / name)


def _convert(folder: Path, base: Path, draft: Path, dtype: str) -> None:
    """The base's weights, with the adapter in `folder` when that is another folder, in another precision."""
    # imported when used: seconds, which `--help` and refusals do without
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    from learner.trainer.publish import write_companions  # noqa: PLC0415

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model: Any = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, local_files_only=True, use_safetensors=True
    )
    if folder != base:
        from peft import PeftModel  # noqa: PLC0415

        model = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    model.to(getattr(torch, dtype)).save_pretrained(draft)
    write_companions(base, draft)


def _write_card(folder: Path, draft: Path, note: str) -> None:
    from learner.trainer.card import CARD, card_of_export  # noqa: PLC0415 - imports torch

    (draft / CARD).write_text(card_of_export(folder, note), encoding="utf-8")
