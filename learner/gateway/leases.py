"""Stages 1 and 5: leases and groups."""

from __future__ import annotations

from learner.gateway.draw import EvaluationConfig, RolloutConfig

__all__ = ["EvaluationConfig", "RolloutConfig"]
