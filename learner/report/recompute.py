"""Log-probs of a run's sampled tokens under a version that is still there, which no journal holds. Imports torch.

Flows in: trajectories, the newest version's folder. Flows out: of each sampled token the log-ratio
log pi_version - log mu, mu being what the engine recorded when it sampled: what training has made of that token since.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.messages import Trajectory
from learner.trainer.config import ModelConfig
from learner.trainer.model import Policy, load_policy


@dataclass(frozen=True)
class Version:
    """The policy that log-probs are computed under."""

    number: int
    policy: Policy

    def log_ratios(self, trajectory: Trajectory) -> npt.NDArray[np.float32] | None:
        """[T], nats, nan where the policy did not sample; None: it does not fit, or was sampled at temperature 0.

        Greedy tokens have no log-prob of a distribution that a ratio could be taken to.
        """
        tokens, sampled = trajectory.tokens, trajectory.sampled
        unfit = int(tokens.max()) >= self.policy.vocabulary or bool(sampled[0])
        if unfit or trajectory.lease.sampling.temperature != 1.0:
            return None
        found = np.full(len(tokens), np.nan, np.float32)
        for begin, end in trajectory.contexts:
            if end - begin > self.policy.context:
                return None
            scored = np.asarray(self.policy.score(tokens[begin:end].tolist()), np.float32)  # of all but the first
            found[begin + 1 : end] = scored
        found -= trajectory.log_probs
        found[~sampled] = np.nan
        return found


def load_version(number: int, folder: Path) -> Version:
    """A version with all its weights, on the CPU. Raises UsageError: it cannot be loaded."""
    return Version(number, load_policy(ModelConfig(path=folder, device="cpu", dtype="float32"), folder, 1))
