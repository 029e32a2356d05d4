"""A policy of a few bytes, as light actors and the light trainer share it: weights, their probe, what follows a step.

Weights are a digest stretched to a size. A step's weights follow from those before it and from the trajectories that it
trained on, so two histories of a run never share a version's weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

WEIGHTS = "weights.bin"
PROBE = (1, 5, 9, 2)


def settings() -> dict:
    """What the fleet tells its light processes, by the environment."""
    return json.loads(os.environ["LIGHT"])


def digest_after(before: str, trained_on: Sequence[str]) -> str:
    """The digest of the weights after a step."""
    return hashlib.sha256("\n".join([before, *trained_on]).encode()).hexdigest()


def weights_of(digest: str, size: int) -> bytes:
    """Weights of `size` bytes."""
    return random.Random(digest).randbytes(size)


def read_weights(folder: Path) -> bytes:
    return (folder / WEIGHTS).read_bytes()


def log_probs(weights: bytes, tokens: Sequence[int]) -> list[float]:
    """log p(tokens[i+1] | tokens[:i+1]) in nats [P-1]: any other byte of the weights changes all of them."""
    mark = hashlib.sha256(weights).digest()
    return [-0.1 - (mark[(i * 7 + a + b) % 32] + mark[i % 32]) / 100 for i, (a, b) in enumerate(pairwise(tokens))]
