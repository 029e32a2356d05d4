"""The guards that an actor may insist on: which are missing, and what would provide them."""

from __future__ import annotations

from collections.abc import Sequence

from common.errors import RunError

REQUIRED = {
    "limits": "Linux",
    "no-network": "root, user namespaces, or a kernel with seccomp on x86-64 or aarch64",
    "own-files": "root, user namespaces, or a kernel with landlock (5.13 and later)",
    "no-programs": "a kernel with seccomp on x86-64 or aarch64",
}  # own-uid is for root alone, so not required


def missing_guards(guards: Sequence[str]) -> list[str]:
    """The required guards that are off."""
    return [guard for guard in REQUIRED if guard not in guards]


def insist(process: str, missing: Sequence[str]) -> None:
    """Raises RunError when anything is missing."""
    if missing:
        ways = "; ".join(f"{guard} would take {REQUIRED[guard]}" for guard in missing)
        raise RunError(f"confinement is required, but {process} is without {', '.join(missing)}: {ways}")
