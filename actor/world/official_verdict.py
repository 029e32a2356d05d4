"""AppWorld's own evaluation of an experiment's outputs. Runs in AppWorld's virtualenv.

    PYTHON -m actor.world.official_verdict ROOT EXPERIMENT DATA_SET < task ids, one a line

Flows in: a folder with `data` and `experiments`, as AppWorld has them. Flows out: the engine's reports beside the
outputs (`evaluation/` of each task; `evaluations/DATA_SET.json` and `.txt` where the whole data set was played), and
its verdicts as the last line of standard output.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path


def main(argv: list[str]) -> int:
    root, experiment, data_set = argv
    with tempfile.TemporaryDirectory() as scratch:
        # the engine reads its root when it is imported, and writes its caches to the others
        os.environ.update(APPWORLD_ROOT=root, APPWORLD_CACHE=scratch, IPYTHONDIR=scratch, HOME=scratch)
        os.chdir(scratch)
        from appworld.evaluator import evaluate_dataset, evaluate_tasks  # noqa: PLC0415
        from appworld.task import load_task_ids  # noqa: PLC0415

        tasks = sys.stdin.read().split()
        data_set_is_there = (Path(root) / "data" / "datasets" / f"{data_set}.txt").exists()
        if data_set_is_there and tasks == load_task_ids(data_set):
            found = evaluate_dataset(experiment, data_set)
        else:
            found = evaluate_tasks(tasks, experiment)
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
