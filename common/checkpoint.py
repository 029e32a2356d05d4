"""Stage 10: a policy version as a folder of files that is either whole or not there.

An ordinary Hugging Face directory plus `manifest.json`, which is written last and names every file with its size and
sha256. The folder is made under another name, synced, and renamed; so a reader never sees half of one.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import RunError

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.json"  # of every full version
HASHED_TOGETHER = 8 << 20  # bytes


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: int = Field(ge=0, description="bytes", examples=[4_000_000])
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="digest of the content, hex", examples=["ab" * 32])


class Probe(BaseModel):
    """A fixed token sequence and what the learner says of it; an actor compares after each swap. P tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    tokens: tuple[int, ...] = Field(min_length=2, description="token ids [P]", examples=[(1, 5, 9)])
    log_probs: tuple[float, ...] = Field(
        description="log p(tokens[i+1] | tokens[:i+1]) at temperature 1 in nats [P-1]", examples=[(-1.2, -0.4)]
    )

    @model_validator(mode="after")
    def lengths_agree(self) -> Self:
        if len(self.log_probs) != len(self.tokens) - 1:
            raise ValueError(f"{len(self.log_probs)} log-probs for {len(self.tokens)} tokens")
        return self


class Manifest(BaseModel):
    """What a version is; its own sha256 identifies the version on the link."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str = Field(description="the run that made it", examples=["tiny-1"])
    policy_version: int = Field(ge=0, description="+1 per published step", examples=[12])
    kind: Literal["full", "adapter"] = Field(description="all weights, or a LoRA adapter", examples=["full"])
    base_version: int | None = Field(
        default=None, ge=0, description="the full version an adapter sits on", examples=[0]
    )
    step: int = Field(ge=0, description="optimizer steps of the run when it was made, count", examples=[12])
    files: dict[str, FileEntry] = Field(description="every other file of the folder by its relative name")
    probe: Probe = Field(description="the learner's log-probs of the probe")


def folder_of(parent: Path, version: int) -> Path:
    """Where a version lies below `parent`."""
    return parent / f"v{version:06d}"


def published_versions(parent: Path) -> list[int]:
    """Versions below `parent` that are whole, ascending."""
    found = [
        int(folder.name[1:])
        for folder in parent.glob("v*")
        if folder.name[1:].isdigit() and (folder / MANIFEST).is_file()
    ]
    return sorted(found)


def publish(parent: Path, manifest_without_files: Manifest, write: Callable[[Path], None]) -> str:
    """Make a version's folder through `write(folder)` and return the manifest's digest.

    An existing folder of that version is replaced. Durable when it returns.

    Raises:
        RunError: the disk takes no more, or fails; nothing is left of the attempt.
    """
    version = manifest_without_files.policy_version
    target = folder_of(parent, version)
    draft = parent / f".draft-{target.name}-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir(parents=True)
        write(draft)
        files = {}
        for file in sorted(path for path in draft.rglob("*") if path.is_file()):
            sync(file)
            files[file.relative_to(draft).as_posix()] = FileEntry(size=file.stat().st_size, sha256=sha256_of(file))
        manifest = manifest_without_files.model_copy(update={"files": files})
        text = manifest.model_dump_json(indent=1).encode()
        (draft / MANIFEST).write_bytes(text)
        sync(draft / MANIFEST)
        sync(draft)
        if target.exists():
            # its name goes at once: half of it under its name would be half a version
            target.rename(parent / f".draft-old-{target.name}-{os.getpid()}")
        draft.rename(target)
        sync(parent)
        for old in parent.glob(f".draft-old-{target.name}-*"):
            shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise RunError(f"{target}: cannot be written: {reason}; make room on its disk, then --resume") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return hashlib.sha256(text).hexdigest()


def read_manifest(folder: Path) -> tuple[Manifest, str]:
    """A version's manifest and its digest.

    Raises:
        RunError: there is none, or it is not one.
    """
    try:
        text = (folder / MANIFEST).read_bytes()
        return Manifest.model_validate_json(text), hashlib.sha256(text).hexdigest()
    except OSError as error:
        raise RunError(f"{folder}: not a published version: {MANIFEST}: {error.strerror}") from None
    except ValidationError as error:
        raise RunError(f"{folder / MANIFEST}: {error.errors()[0]['msg']}; publish or fetch the version again") from None


def verify(folder: Path, expected_digest: str | None = None) -> Manifest:
    """The manifest of a version whose every file is what its manifest says.

    Raises:
        RunError: naming the file that is missing, short, or of another digest.
    """
    manifest = of_right_sizes(folder, expected_digest)
    for name, entry in manifest.files.items():
        if sha256_of(folder / name) != entry.sha256:
            raise RunError(f"{folder / name}: sha256 differs from the manifest; fetch the version again")
    return manifest


def of_right_sizes(folder: Path, expected_digest: str | None = None) -> Manifest:
    """The manifest of a version whose every file is there with its size; digests of files are not looked at.

    Raises:
        RunError: naming the file that is missing or of another size.
    """
    manifest, digest = read_manifest(folder)
    if expected_digest is not None and digest != expected_digest:
        raise RunError(
            f"{folder / MANIFEST}: sha256 is {digest[:12]}, expected {expected_digest[:12]}; fetch the version again"
        )
    for name, entry in manifest.files.items():
        file = folder / name
        if not file.is_file() or not file.resolve().is_relative_to(folder.resolve()):
            raise RunError(f"{file}: named by the manifest, but missing; fetch the version again")
        if file.stat().st_size != entry.size:
            raise RunError(
                f"{file}: {file.stat().st_size} bytes, the manifest says {entry.size}; fetch the version again"
            )
    return manifest


def sha256_of(file: Path) -> str:
    """Digest of a file's content, hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


async def sha256_begun(file: Path) -> hashlib._Hash:
    """The digest of what a file holds, to go on with; hashed beside the event loop, in pieces that can be cancelled."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := await asyncio.to_thread(stream.read, HASHED_TOGETHER):
            await asyncio.to_thread(digest.update, piece)
    return digest


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
