"""Whether a version's files are what its manifest says (stage 12): hashed, or not touched since they were (G5)."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from common.checkpoint import MANIFEST, Manifest, of_right_sizes, sha256_begun
from common.errors import RunError

NOTE = ".verified.json"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
Identity = dict[str, object]


async def verified(folder: Path, digest: str, known: Identity | None = None) -> tuple[Manifest, Identity | None]:
    """A version's manifest and its files' identity; all are hashed, unless they are still those that `known` tells of.

    Raises:
        RunError: naming what is missing, short, or of another digest.
        OSError: a file cannot be read.
    """
    manifest = of_right_sizes(folder, digest)
    found = identity(folder, manifest)  # before the hashing: whoever writes meanwhile makes it another
    if known is None or known != found:
        for name, entry in manifest.files.items():
            if (await sha256_begun(folder / name)).hexdigest() != entry.sha256:
                raise RunError(f"{folder / name}: sha256 differs from the manifest; fetch the version again")
    return manifest, found


def identity(folder: Path, manifest: Manifest) -> Identity | None:
    """What the kernel says of a version's files, to tell whether they have been touched; none where it says too little.

    Any write to a file changes it (inode, size, times of content and of change; no program can set the last). It names
    the machine's start too: after a crash of the machine nothing is known, and so nothing torn is believed.
    """
    if not BOOT_ID.exists():
        return None
    files: dict[str, list[int]] = {}
    for name in (MANIFEST, *manifest.files):
        found = (folder / name).lstat()
        files[name] = [found.st_ino, found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns]
    return {"boot": BOOT_ID.read_text(encoding="ascii").strip(), "files": files}


def note_verified(folder: Path, found: Identity | None) -> None:
    """Leave word for other actors of the machine that all files were hashed and found right."""
    draft = folder / f"{NOTE}.{secrets.token_hex(4)}"
    draft.write_text(json.dumps(found), encoding="utf-8")
    draft.rename(folder / NOTE)


def noted(folder: Path) -> Identity | None:
    """What `note_verified` left in a folder, if it did."""
    try:
        found = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
