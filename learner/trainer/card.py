"""Stage 10: a version's README.md, a model card: which run made it, from what, how, and how well it did. Pure but for
reading the start's own card and the list of tasks.

A card follows from the trainer's state and the configuration alone, its time too: a version that is published again
after a crash keeps its digest.
"""

from __future__ import annotations

import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from common.errors import UsageError
from learner.config import LearnerConfig
from learner.gateway.draw import read_tasks
from learner.trainer.resume import TrainerState

CARD = "README.md"
LIBRARIES = ("loop-rl", "torch", "transformers", "peft", "tokenizers", "safetensors")
SHOWN_FIGURES = ("mean_reward", "success_share", "mean_turns", "trajectories", "loss", "gradient_norm", "learning_rate")
SHOWN_EVALUATION = ("label", "policy_version", "tasks", "tgc", "sgc", "mean_reward")
# machine paths are told by their last part; what says nothing of the method is left out
SETTINGS: dict[str, Any] = {
    "model": {"training", "lora", "dtype"},
    "rollout": True,
    "batch": True,
    "objective": True,
    "correction": True,
    "optimizer": True,
}
TEMPLATE = """\
---
{{ front }}---

# {{ state.run_id }}, policy version {{ state.policy_version }}

{% if state.step -%}
A policy trained with LOOP (leave-one-out PPO, arXiv 2502.01600) to act in AppWorld by writing code.
{%- else -%}
The start of a run of LOOP (leave-one-out PPO, arXiv 2502.01600) in AppWorld: the base as it was, nothing trained yet.
{%- endif %}
{%- if adapter %} A LoRA adapter; its base is the run's version 0, which lies beside it.{% endif %}

| | |
|---|---|
| run | {{ state.run_id }} |
| seed | {{ state.seed }} |
| step | {{ state.step }} of {{ config.rollout.steps }} |
| policy version | {{ state.policy_version }} |
| made (UTC) | {{ state.made_at or "unknown" }} |
| base model | {{ base }} |
| license of the base | {{ licence or "its card names none" }} |
| trained on | the tasks of {{ config.rollout.train_tasks.name }}{% if tasks %}, {{ tasks }} of them{% endif %} |
| libraries | {{ libraries }} |

## Method

Advantage `{{ config.objective.advantage }}`, ratio per {{ config.objective.ratio }}, \
{{ config.rollout.groups_per_step }} tasks of {{ config.rollout.group_size }} rollouts a step, lag of a token at most \
{{ config.rollout.staleness_bound }} policy versions. All settings, under the names of `loop learner --help`:

```yaml
{{ settings }}```

## Figures
{% if figures %}
Of step {{ state.step }}, on its rollouts:

| | |
|---|---|
{% for name, value in figures.items() -%}
| {{ name }} | {{ value }} |
{% endfor -%}
{% else %}
No step was made yet.
{% endif %}
{%- if evaluations %}
Evaluations so far (shares from 0 to 1):

| {{ evaluation_columns | join(" | ") }} |
|{{ "---|" * evaluation_columns | length }}
{% for one in evaluations -%}
| {{ one | join(" | ") }} |
{% endfor -%}
{% endif -%}
"""


def model_card(state: TrainerState, config: LearnerConfig, start: Path, *, adapter: bool) -> str:
    """The card of the version that `state` holds; `start` is the folder of version 0, whose card names the license."""
    licence = licence_of(start)
    base = config.model.path.name or "base"
    front = {
        **({"license": licence} if licence else {}),
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": "text-generation",
        "base_model": base,
        "tags": ["reinforcement-learning", "loop", "appworld"],
    }
    settings = config.model_dump(mode="json", include=SETTINGS, exclude={"rollout": {"train_tasks"}})
    if config.model.training == "full":
        del settings["model"]["lora"]
    # markdown, read by people: nothing to escape
    environment = Environment(autoescape=False, undefined=StrictUndefined, keep_trailing_newline=True)  # noqa: S701
    return environment.from_string(TEMPLATE).render(
        front=yaml.safe_dump(front, sort_keys=False),
        state=state,
        config=config,
        adapter=adapter,
        base=base,
        licence=licence,
        tasks=_count(config.rollout.train_tasks),
        libraries=", ".join(_libraries()),
        settings=yaml.safe_dump(settings, sort_keys=False),
        figures={name: _shown(state.figures[name]) for name in SHOWN_FIGURES if state.figures.get(name) is not None},
        evaluation_columns=SHOWN_EVALUATION,
        evaluations=[[_shown(one.get(name, "")) for name in SHOWN_EVALUATION] for one in state.evaluations],
    )


def licence_of(folder: Path) -> str | None:
    """The license that a model folder's card names in its head."""
    named = _head(_text_of(folder / CARD))[0].get("license")
    return named if isinstance(named, str) else None


def card_of_export(folder: Path, note: str) -> str:
    """The card of a version's folder for the model that was exported from it; `note` says how."""
    head, body = _head(_text_of(folder / CARD))
    front = yaml.safe_dump({**head, "library_name": "transformers"}, sort_keys=False)
    return f"---\n{front}---\n{body.rstrip()}\n\n## Export\n\n{note}\n"


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _head(text: str) -> tuple[dict[str, Any], str]:
    """The YAML between the first two lines of dashes, and what follows; nothing when there is none."""
    parts = text.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        return {}, text
    try:
        head = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        head = None
    return (head if isinstance(head, dict) else {}), parts[2]


def _count(tasks: Path) -> int | None:
    try:
        return len(read_tasks(tasks, "learner.rollout.train_tasks"))
    except UsageError:
        return None  # the gateway read it and would have refused; a trainer alone does not need it


def _libraries() -> list[str]:
    found = [f"python {platform.python_version()}"]
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # run from a clone
            continue
    return found


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
