"""What steps, evaluations and reloads came to, summed from metrics.jsonl for /metrics; read in the exporter's thread.

The trainer writes a line a step and does no more for its figures. Counters are of the whole run: after a restart the
file is read again from its beginning. A step that is made again after a crash is counted once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.measures import Counts, Measure, Split, Value
from common.metrics import MetricsReader
from learner.gateway.evaluation import is_online

READ = ("step", "evaluation", "reload")
LAG_BOUNDS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 32)
MOST_NAMES = 32  # values of one label; a file that names more is not one of ours

MEASURES = (
    Measure("loop_learner_steps_total", "counter", "steps made, refused ones too"),
    Measure("loop_learner_steps_refused_total", "counter", "steps whose loss or gradient was not finite"),
    Measure("loop_learner_optimizer_steps_total", "counter", "changes of the parameters"),
    Measure("loop_learner_step_seconds_total", "counter", "seconds of steps, by what took them", ("phase",)),
    Measure("loop_learner_trained_trajectories_total", "counter", "trajectories trained on"),
    Measure("loop_learner_trained_groups_total", "counter", "groups that steps were given"),
    Measure("loop_learner_passed_over_total", "counter", "trajectories given to steps, not trained on", ("reason",)),
    Measure("loop_learner_sampled_tokens_total", "counter", "tokens that the policy sampled in the groups of steps"),
    Measure("loop_learner_forward_tokens_total", "counter", "tokens of the trainer's forward passes"),
    Measure("loop_learner_token_lag_versions", "histogram", "lag of tokens trained on, in versions", (), LAG_BOUNDS),
    Measure("loop_learner_mean_reward", "gauge", "mean reward in the last step's groups, 0 to 1"),
    Measure("loop_learner_success_ratio", "gauge", "share of the last step's trajectories that solved their task"),
    Measure("loop_learner_mean_turns", "gauge", "mean turns of the last step's trajectories"),
    Measure("loop_learner_loss", "gauge", "the last step's loss"),
    Measure("loop_learner_gradient_norm", "gauge", "the last step's gradient norm before clipping"),
    Measure("loop_learner_learning_rate", "gauge", "the last step's learning rate"),
    Measure("loop_learner_mean_policy_ratio", "gauge", "mean ratio of the last step's tokens; 1 where on-policy"),
    Measure("loop_learner_largest_policy_ratio", "gauge", "the largest ratio of the last step's tokens"),
    Measure("loop_learner_clipped_ratio", "gauge", "share of the last step's tokens whose ratio was clipped"),
    Measure("loop_learner_kl_nats", "gauge", "estimate k3 of the divergence from the behaviour, the last step's"),
    Measure("loop_learner_effective_sample_ratio", "gauge", "effective share of the last step's tokens, 0 to 1"),
    Measure("loop_learner_entropy_nats", "gauge", "entropy of the policy over the last step's tokens"),
    Measure("loop_learner_mismatch_nats", "gauge", "mean difference of engine and trainer, where told"),
    Measure("loop_learner_evaluation_tgc_ratio", "gauge", "task goal completion, the newest", ("evaluation",)),
    Measure("loop_learner_evaluation_sgc_ratio", "gauge", "scenario goal completion likewise", ("evaluation",)),
    Measure("loop_learner_reload_reports_total", "counter", "actors' reports of new versions", ("outcome",)),
)
# counters, and gauges of the last step, by the figure's name in metrics.jsonl
SUMS = {
    "loop_learner_optimizer_steps_total": "optimizer_steps",
    "loop_learner_trained_trajectories_total": "trajectories",
    "loop_learner_trained_groups_total": "groups",
    "loop_learner_sampled_tokens_total": "sampled_tokens",
    "loop_learner_forward_tokens_total": "trained_tokens",
}
LAST = {
    "loop_learner_mean_reward": ("mean_reward",),
    "loop_learner_success_ratio": ("success_share",),
    "loop_learner_mean_turns": ("mean_turns",),
    "loop_learner_loss": ("loss",),
    "loop_learner_gradient_norm": ("gradient_norm",),
    "loop_learner_learning_rate": ("learning_rate",),
    "loop_learner_mean_policy_ratio": ("ratios", "ratio_mean"),
    "loop_learner_largest_policy_ratio": ("ratios", "ratio_max"),
    "loop_learner_clipped_ratio": ("ratios", "clip_share"),
    "loop_learner_kl_nats": ("ratios", "kl_k3"),
    "loop_learner_effective_sample_ratio": ("ratios", "ess"),
    "loop_learner_entropy_nats": ("ratios", "entropy"),
    "loop_learner_mismatch_nats": ("recomputed", "mismatch", "mean"),
}


class StepCounts:
    """Of one run's file; `read` brings them up to now."""

    def __init__(self, file: Path) -> None:
        self._reader = MetricsReader(file, only=READ)
        self._steps = self._refused = self._newest = 0
        self._sums: dict[str, float] = dict.fromkeys(SUMS, 0.0)
        self._last: dict[str, Value] = dict.fromkeys(LAST)
        self._seconds: dict[str, float] = {}
        self._passed_over: dict[str, float] = {}
        self._lags: Counter[int] = Counter()
        self._tgc: dict[str, float] = {}
        self._sgc: dict[str, float] = {}
        self._reloads: dict[str, float] = {"accepted": 0.0, "refused": 0.0}

    def read(self) -> dict[str, Value]:
        """Values by measure, with what was written since the last call."""
        for event in self._reader.new():
            match event["event"]:
                case "step":
                    self._step(event)
                case "evaluation":
                    label = str(event.get("label"))
                    name = "dev" if is_online(label) else label
                    _put(self._tgc, name, event.get("tgc"))
                    _put(self._sgc, name, event.get("sgc"))
                case "reload":
                    self._reloads["accepted" if event.get("accepted") else "refused"] += 1
        return {
            "loop_learner_steps_total": self._steps,
            "loop_learner_steps_refused_total": self._refused,
            "loop_learner_step_seconds_total": _split(self._seconds),
            "loop_learner_passed_over_total": _split(self._passed_over),
            "loop_learner_token_lag_versions": Counts(dict(self._lags)),
            "loop_learner_evaluation_tgc_ratio": _split(self._tgc),
            "loop_learner_evaluation_sgc_ratio": _split(self._sgc),
            "loop_learner_reload_reports_total": _split(self._reloads),
            **self._sums,
            **self._last,
        }

    def _step(self, event: Mapping[str, Any]) -> None:
        self._last = {name: _number(_inner(event, path)) for name, path in LAST.items()}
        number = event.get("step")
        if not isinstance(number, int) or number <= self._newest:
            return
        self._newest = number
        self._steps += 1
        self._refused += bool(event.get("refused"))
        for name, figure in SUMS.items():
            self._sums[name] += _number(event.get(figure)) or 0.0
        for phase, seconds in _mapping(event.get("seconds")).items():
            _put(self._seconds, phase, self._seconds.get(phase, 0.0) + (_number(seconds) or 0.0))
        for reason, count in _mapping(event.get("dropped")).items():
            _put(self._passed_over, reason, self._passed_over.get(reason, 0.0) + (_number(count) or 0.0))
        for lag, tokens in _mapping(event.get("lags")).items():
            if lag.isdecimal():
                self._lags[int(lag)] += int(_number(tokens) or 0)


def _inner(event: Mapping[str, Any], path: tuple[str, ...]) -> object:
    value: object = event
    for name in path:
        value = _mapping(value).get(name)
    return value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _put(values: dict[str, float], name: str, value: object) -> None:
    number = _number(value)
    if number is not None and (name in values or len(values) < MOST_NAMES):
        values[name] = number


def _split(values: Mapping[str, float]) -> Split:
    return Split({(name,): value for name, value in values.items()})
