"""Lists the task ids of a data set for the learner: a data root in, ids and what is to be known of them out."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from actor.world.root import dataset_ids, is_official
from common.errors import UsageError
from common.log import get_logger

log = get_logger(__name__)

# Tasks and scenarios of AppWorld 0.1's data sets, and of what LOOP (arXiv 2502.01600) trains on: difficulty 1 and 2.
OFFICIAL = {"train": (90, 30), "dev": (57, 19), "test_normal": (168, 56), "test_challenge": (417, 139)}
PAPER_LEVELS, PAPER = (1, 2), (72, 24)


def list_tasks(root: Path, dataset: str, difficulties: Collection[int] | None = None) -> dict[str, Any]:
    """Ids, their count and that of their scenarios; logs where AppWorld's own data have another count than they should.

    Raises:
        UsageError: as `dataset_ids`.
    """
    ids = dataset_ids(root, dataset, difficulties)
    scenarios = len({task_id.split("_")[0] for task_id in ids})
    official, expected = is_official(root), _expected(dataset, difficulties)
    if official and expected is not None and expected != (len(ids), scenarios):
        log.warning(
            "another_count_than_published",
            dataset=dataset,
            tasks=len(ids),
            scenarios=scenarios,
            published_tasks=expected[0],
            published_scenarios=expected[1],
        )
    return {
        "root": str(root),
        "official": official,
        "dataset": dataset,
        "difficulty": sorted(difficulties) if difficulties is not None else None,
        "count": len(ids),
        "scenarios": scenarios,
        "tasks": ids,
    }


def write_list(file: Path, ids: Sequence[str]) -> None:
    """The ids, one a line, whole or not at all. Raises UsageError when the file cannot be written."""
    try:
        with tempfile.NamedTemporaryFile("w", dir=file.absolute().parent, delete=False, encoding="utf-8") as written:
            written.write("\n".join(ids) + "\n")
        os.chmod(written.name, 0o644)  # noqa: PTH101 - no secret: the learner reads it
        Path(written.name).replace(file)
    except OSError as error:
        raise UsageError(f"--out {file}: cannot be written: {error.strerror}") from None


def _expected(dataset: str, difficulties: Collection[int] | None) -> tuple[int, int] | None:
    if difficulties is None or set(difficulties) == {1, 2, 3}:
        return OFFICIAL.get(dataset)
    return PAPER if dataset == "train" and set(difficulties) == set(PAPER_LEVELS) else None
