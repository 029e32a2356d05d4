"""Stage 10: the policy's parameters -> a published version, an ordinary Hugging Face folder with a probe.

Version 0 is the start, file by file. Later versions are all weights, or with LoRA an adapter whose base is version 0.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import MANIFEST, Manifest, Probe, folder_of, publish, published_versions
from common.prompt import Prompt
from learner.trainer.card import CARD
from learner.trainer.model import DTYPES, Policy
from learner.trainer.saving import saving

# what a policy needs besides its weights; copied byte by byte, so that no tokenizer is ever written anew
COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
START_FILES = ("config.json", "model.safetensors.index.json")
PROBE_TOKENS = 64
PROBE_TEXT = """\
passwords = apis.supervisor.show_account_passwords()
password = [one["password"] for one in passwords if one["account_name"] == "venmo"][0]
token = apis.venmo.login(username="ada.lovelace@example.com", password=password)["access_token"]
page = apis.venmo.show_transactions(access_token=token, page_index=0, page_limit=20)
print(sum(one["amount"] for one in page), len(page), max(page, key=lambda one: one["created_at"]))
apis.supervisor.complete_task(answer="1843.50")
"""


def probe_tokens(folder: Path, context: int) -> list[int]:
    """The probe's tokens: a fixed text by the tokenizer in `folder`, at most as many as the model has positions for.

    Raises:
        UsageError: the tokenizer is missing or unusable.
    """
    tokens = Prompt.load(folder).reply(PROBE_TEXT)
    return tokens[: min(PROBE_TOKENS, context)]


def publish_version(policy: Policy, parent: Path, start: Path, manifest: Manifest, *, card: str) -> str:
    """Write a version's folder below `parent` and return its manifest's digest.

    Args:
        policy: the parameters.
        parent: of all versions.
        start: the folder of version 0, whose tokenizer and generation config every version gets.
        manifest: but for its files.
        card: the text of its README.md.

    Every rank calls it; rank 0 writes, the others return an empty digest. Raises RunError: the disk takes no more.
    """
    weights = _published_weights(policy) if manifest.policy_version > 0 else {}
    if not policy.ranks.is_first:
        return ""

    def write(folder: Path) -> None:
        if manifest.policy_version == 0:
            write_start(start, folder)
        elif policy.is_adapter:
            adapted: Any = policy.module
            # auto would ask the network whether the base's vocabulary is the original one
            adapted.save_pretrained(str(folder), save_embedding_layers=False, state_dict=weights)
            write_companions(start, folder)
        else:
            write_weights(policy, folder, weights)
            write_companions(start, folder)
        (folder / CARD).write_text(card, encoding="utf-8")  # instead of peft's empty form

    with saving(parent):
        return publish(parent, manifest, write)


def manifest_of(policy: Policy, *, run_id: str, policy_version: int, step: int, tokens: list[int]) -> Manifest:
    """The manifest but for its files, with the probe scored by the policy as it is."""
    adapter = policy.is_adapter and policy_version > 0
    return Manifest(
        run_id=run_id,
        policy_version=policy_version,
        kind="adapter" if adapter else "full",
        base_version=0 if adapter else None,
        step=step,
        files={},
        probe=Probe(tokens=tuple(tokens), log_probs=tuple(policy.score(tokens))),
    )


def write_start(start: Path, folder: Path) -> None:
    """Copy the start's weights, configuration and companions."""
    for file in [*(start / name for name in START_FILES), *sorted(start.glob("*.safetensors"))]:
        if file.is_file():
            shutil.copyfile(file, folder / file.name)
    write_companions(start, folder)


def write_companions(start: Path, folder: Path) -> None:
    """Copy tokenizer and generation config."""
    for name in COMPANIONS:
        if (start / name).is_file():
            shutil.copyfile(start / name, folder / name)


def _published_weights(policy: Policy) -> dict[str, torch.Tensor]:
    """On rank 0 what a version holds: the adapter, or all weights in the precision that the policy computes in."""
    if policy.is_adapter:
        return policy.ranks.whole(policy.trainable())
    # tied weights are one parameter under two names, which only the parameters themselves tell
    return policy.ranks.whole(policy.causal.state_dict(keep_vars=True), DTYPES[policy.config.dtype])


def write_weights(policy: Policy, folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """All weights as transformers saves them."""
    policy.causal.save_pretrained(folder, state_dict=weights)
    if policy.config.dtype == "float32":
        return
    # transformers writes the precision of the model in memory, and readers take the files to be in it
    file = folder / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "dtype": policy.config.dtype}, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which published versions stay. Any one of these keeps a version."""

    newest: int  # count
    hours: float = 0.0  # age below which a version stays; its manifest's modification time counts
    every: int | None = None  # versions divisible by it stay for good
    in_use: Collection[int] = ()  # by actors, or by adapters whose base it is

    def keeps(self, version: int, age: float) -> bool:
        """Whether a version of this age in hours, not one of the newest, stays."""
        milestone = self.every is not None and version % self.every == 0
        return milestone or age < self.hours or version in self.in_use


def retire(parent: Path, retention: Retention, now: float) -> list[int]:
    """Remove the versions that nothing keeps; `now` in seconds since 1970. Returns what was removed."""
    removed = []
    for version in published_versions(parent)[: -retention.newest]:
        folder = folder_of(parent, version)
        age = (now - (folder / MANIFEST).stat().st_mtime) / 3600
        if retention.keeps(version, age):
            continue
        removed.append(version)
        (folder / MANIFEST).unlink()  # first, so that what is left after a crash is not a version
        shutil.rmtree(folder)
    return removed
