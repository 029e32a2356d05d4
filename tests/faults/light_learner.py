"""`loop learner` with the light trainer in the trainer's place: the real parent, the real gateway."""

from __future__ import annotations

import sys

import common.cli
import learner.cli
import learner.parent
from common.processes import Children

TRAINER = "learner.trainer.loop"


class LightChildren(Children):
    def start(self, name, arguments, *, output, environment=None):
        module, *words = arguments
        module = "light_trainer" if module == TRAINER else module
        return super().start(name, [module, *words], output=output, environment=environment)


if __name__ == "__main__":
    learner.parent.Children = LightChildren
    learner.cli._check = lambda _resolved, *, weights: None  # there is no model folder
    sys.exit(common.cli.main(["learner", *sys.argv[1:]]))
