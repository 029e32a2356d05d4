"""Which policy `loop eval` plays: a model folder, a published version, or a run's version. Looks, loads nothing."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from common.checkpoint import MANIFEST, TOKENIZER, Manifest, folder_of, published_versions, verify
from common.errors import RunError, UsageError

OF_RUN = re.compile(r"(.+)@([0-9]+)")


@dataclass(frozen=True)
class Chosen:
    """A policy's files: full weights, and a LoRA adapter on them where it is one."""

    full: Path
    full_manifest: Manifest | None  # None: an ordinary model folder, with no probe to hold it against
    adapter: Path | None
    adapter_manifest: Manifest | None
    name: str  # for folders and people: "v000012"

    @property
    def manifest(self) -> Manifest | None:
        return self.adapter_manifest or self.full_manifest

    @property
    def version(self) -> int:
        """The policy version; 0 of a model folder that no run published."""
        return self.manifest.policy_version if self.manifest is not None else 0

    @property
    def adapter_rank(self) -> int:
        """Of the adapter, 0 without one. Raises UsageError."""
        if self.adapter is None:
            return 0
        file = self.adapter / "adapter_config.json"
        try:
            return int(json.loads(file.read_text(encoding="utf-8"))["r"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{file}: says no rank of the adapter: {error!r}") from None


def run_of(checkpoint: str) -> Path | None:
    """The run's folder that a `--checkpoint` names or lies in; None when it is of no run."""
    path = _split(checkpoint)[0]
    if (path / "checkpoints").is_dir():
        return path
    return path.resolve().parents[1] if path.resolve().parent.name == "checkpoints" else None


def choose(checkpoint: str) -> Chosen:
    """What RUN, RUN@VERSION or a folder stands for, every file of a version held against its manifest.

    Raises:
        UsageError: nothing of that name; says what there is.
    """
    path, wanted = _split(checkpoint)
    versions = path / "checkpoints"
    if not versions.is_dir():
        if wanted is not None:
            raise UsageError(f"--checkpoint {checkpoint}: {path} is not the folder of a run: it has no checkpoints/")
        return _of_folder(path, checkpoint)
    found = published_versions(versions)
    if not found:
        raise UsageError(f"--checkpoint {checkpoint}: no version was published yet in {versions}")
    if wanted is not None and wanted not in found:
        raise UsageError(
            f"--checkpoint {checkpoint}: {versions} has no version {wanted}; it has {', '.join(map(str, found))}"
        )
    return _of_folder(folder_of(versions, found[-1] if wanted is None else wanted), checkpoint)


def _split(checkpoint: str) -> tuple[Path, int | None]:
    found = OF_RUN.fullmatch(checkpoint)
    if found is None or Path(checkpoint).exists():
        return Path(checkpoint), None
    return Path(found[1]), int(found[2])


def _of_folder(folder: Path, checkpoint: str) -> Chosen:
    try:
        if not (folder / MANIFEST).is_file():
            if not (folder / "config.json").is_file() or not (folder / TOKENIZER).is_file():
                raise UsageError(
                    f"--checkpoint {checkpoint}: {folder} is neither a run, nor a version, nor a model folder "
                    f"(config.json, {TOKENIZER}, *.safetensors)"
                )
            return Chosen(folder, None, None, None, folder.resolve().name)
        manifest = verify(folder)
        if manifest.kind == "full":
            return Chosen(folder, manifest, None, None, folder.resolve().name)
        assert manifest.base_version is not None
        base = folder_of(folder.resolve().parent, manifest.base_version)
        return Chosen(base, verify(base), folder, manifest, folder.resolve().name)
    except RunError as error:
        raise UsageError(f"--checkpoint {checkpoint}: {error}") from None
