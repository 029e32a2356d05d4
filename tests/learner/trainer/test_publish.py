import json
import os

import pytest
import torch
from peft import PeftModel
from trainer_building import make_model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.checkpoint import folder_of, published_versions, verify
from common.errors import UsageError
from learner.config import LearnerConfig
from learner.trainer.config import ModelConfig
from learner.trainer.model import load_policy
from learner.trainer.publish import COMPANIONS, Retention, manifest_of, probe_tokens, publish_version, retire


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return make_model_folder(tmp_path_factory.mktemp("start"))


def load(start, **options):
    return load_policy(ModelConfig(path=start, device="cpu", **options), start, seed=1)


def shake(policy):
    """As if steps had been made."""
    torch.manual_seed(3)
    with torch.no_grad():
        for value in policy.trainable().values():
            value.add_(0.02 * torch.randn_like(value))


def publish(policy, parent, start, version, step=None):
    tokens = probe_tokens(start, policy.context)
    manifest = manifest_of(
        policy, run_id="r", policy_version=version, step=version if step is None else step, tokens=tokens
    )
    return publish_version(policy, parent, start, manifest, card=f"# version {version}\n")


def probe_by_transformers(model, manifest):
    tokens = torch.tensor([manifest.probe.tokens])
    with torch.no_grad():
        log_probs = model(tokens).logits[0, :-1].double().log_softmax(-1)
    return log_probs.gather(-1, tokens[0, 1:, None])[:, 0]


def assert_scores_the_probe(model, manifest):
    expected = torch.tensor(manifest.probe.log_probs, dtype=torch.float64)
    torch.testing.assert_close(probe_by_transformers(model, manifest), expected, rtol=0, atol=1e-5)


def test_a_full_version_loads_through_transformers_and_scores_the_probe(start, tmp_path):
    policy = load(start)
    shake(policy)
    digest = publish(policy, tmp_path, start, 3)
    folder = folder_of(tmp_path, 3)
    manifest = verify(folder, digest)
    assert (manifest.kind, manifest.base_version, manifest.policy_version, manifest.run_id) == ("full", None, 3, "r")
    assert len(manifest.probe.tokens) == 64
    assert_scores_the_probe(AutoModelForCausalLM.from_pretrained(folder), manifest)
    assert len(AutoTokenizer.from_pretrained(folder)) == len(AutoTokenizer.from_pretrained(start))


def test_an_adapter_version_loads_through_peft_on_version_0_and_scores_the_probe(start, tmp_path):
    policy = load(start, training="lora")
    publish(policy, tmp_path, start, 0)
    shake(policy)
    manifest = verify(folder_of(tmp_path, 1), publish(policy, tmp_path, start, 1))
    assert (manifest.kind, manifest.base_version) == ("adapter", 0)
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "generation_config.json"} < {
        *manifest.files
    }
    assert "model.safetensors" not in manifest.files
    assert len(AutoTokenizer.from_pretrained(folder_of(tmp_path, 1))) == len(AutoTokenizer.from_pretrained(start))
    base = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 0))
    without = probe_by_transformers(base, manifest)
    assert_scores_the_probe(PeftModel.from_pretrained(base, folder_of(tmp_path, 1)), manifest)
    assert (without - torch.tensor(manifest.probe.log_probs)).abs().max() > 0.01


def test_an_adapter_names_no_path_of_this_machine(start, tmp_path):
    policy = load(start, training="lora")
    publish(policy, tmp_path, start, 1)
    config = json.loads((folder_of(tmp_path, 1) / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../v000000"
    assert str(start) not in json.dumps(config)


@pytest.mark.parametrize("training", ["full", "lora"])
def test_version_0_is_the_start_file_by_file(start, tmp_path, training):
    policy = load(start, training=training)
    manifest = verify(folder_of(tmp_path, 0), publish(policy, tmp_path, start, 0))
    assert manifest.kind == "full"
    for name in manifest.files.keys() - {"README.md"}:
        assert (folder_of(tmp_path, 0) / name).read_bytes() == (start / name).read_bytes()
    assert_scores_the_probe(AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 0)), manifest)


@pytest.mark.parametrize("training", ["full", "lora"])
def test_tokenizer_and_generation_config_are_copied_unchanged(start, tmp_path, training):
    policy = load(start, training=training)
    publish(policy, tmp_path, start, 1)
    copied = [name for name in COMPANIONS if (folder_of(tmp_path, 1) / name).exists()]
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json"} <= set(copied)
    for name in copied:
        assert (folder_of(tmp_path, 1) / name).read_bytes() == (start / name).read_bytes()


def test_the_same_weights_published_again_have_the_same_digest(start, tmp_path):
    policy = load(start)
    shake(policy)
    assert publish(policy, tmp_path / "a", start, 2) == publish(policy, tmp_path / "b", start, 2)


def test_a_bfloat16_policy_is_published_in_bfloat16(start, tmp_path):
    policy = load(start, dtype="bfloat16")
    publish(policy, tmp_path, start, 1)
    loaded = AutoModelForCausalLM.from_pretrained(folder_of(tmp_path, 1), dtype="auto")
    assert {value.dtype for value in loaded.parameters()} == {torch.bfloat16}


def test_a_tokenizer_without_the_prompts_tokens_is_refused(start, tmp_path):
    (tmp_path / "tokenizer.json").write_text(
        (start / "tokenizer.json").read_text().replace("<|im_start|>", "<|other|>")
    )
    with pytest.raises(UsageError, match="ChatML"):
        probe_tokens(tmp_path, 640)


def test_the_probe_fits_a_short_context(start):
    assert len(probe_tokens(start, 16)) == 16


def make_versions(parent, *, ages):
    """Folders of versions 0, 1, ... whose manifests are so many hours old at the time 10**9."""
    for version, hours in enumerate(ages):
        folder = folder_of(parent, version)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        os.utime(folder / "manifest.json", (0, NOW - 3600 * hours))


NOW = 1e9


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(newest=3), [3, 4, 5]),
        (Retention(newest=3, in_use={0}), [0, 3, 4, 5]),  # the base of adapters
        (Retention(newest=2, in_use={1, 5}), [1, 4, 5]),
        (Retention(newest=1, hours=3.5), [3, 4, 5]),
        (Retention(newest=4, hours=3.5), [2, 3, 4, 5]),
        (Retention(newest=1, every=2), [0, 2, 4, 5]),
        (Retention(newest=1, hours=1.5, every=4, in_use={2}), [0, 2, 4, 5]),
    ],
)
def test_a_version_stays_for_any_of_count_age_use_and_number(tmp_path, retention, kept):
    make_versions(tmp_path, ages=[6, 5, 4, 3, 1, 0])
    assert retire(tmp_path, retention, NOW) == [version for version in range(6) if version not in kept]
    assert published_versions(tmp_path) == kept
    assert len(list(tmp_path.iterdir())) == len(kept)
    assert retire(tmp_path, retention, NOW) == []


@pytest.mark.parametrize(("bound", "keep", "stay"), [(0, None, 3), (4, None, 7), (4, 9, 9), (4, 2, 5)])
def test_every_version_within_the_staleness_bound_stays(bound, keep, stay):
    tree = {"rollout": {"staleness_bound": bound}, "checkpoints": {"keep_versions": keep}}
    assert LearnerConfig.model_validate(tree).kept_versions == stay
