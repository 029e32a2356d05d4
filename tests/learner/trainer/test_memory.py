"""The estimate against truth: parameters as transformers and peft make them, bytes as autograd keeps them."""

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from trainer_building import make_model_folder, random_trajectory
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config, Qwen3Config

from common.config import load
from common.errors import UsageError
from learner.config import LearnerConfig
from learner.trainer.advantage import Scored
from learner.trainer.batch import make_micro_batch
from learner.trainer.config import BatchConfig, LoraSettings, ModelConfig
from learner.trainer.memory import block_bytes, ends_bytes, estimate, read_shape, stream_bytes
from learner.trainer.model import load_policy
from learner.trainer.optimizer import Optimizer
from learner.trainer.update import update

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"vocab_size": 500, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3}
HEADS = {"num_attention_heads": 6, "num_key_value_heads": 2}
CONFIGS = {
    "qwen2": Qwen2Config(**SMALL, **HEADS, tie_word_embeddings=False),
    "qwen2_tied": Qwen2Config(**SMALL, **HEADS, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**SMALL, **HEADS, head_dim=16, tie_word_embeddings=False),
    "qwen3_tied": Qwen3Config(**SMALL, **HEADS, head_dim=16, tie_word_embeddings=True),
    "qwen3_with_biases": Qwen3Config(**SMALL, **HEADS, head_dim=16, attention_bias=True),
    "llama": LlamaConfig(**SMALL, **HEADS, tie_word_embeddings=False),
    "llama_with_biases": LlamaConfig(**SMALL, **HEADS, attention_bias=True, mlp_bias=True),
    # published sizes: 32,763,876,352 and 7,615,616,512 and 596,049,920
    "qwen2.5-32b": Qwen2Config(
        vocab_size=152_064, hidden_size=5120, intermediate_size=27_648, num_hidden_layers=64, num_attention_heads=40,
        num_key_value_heads=8,
    ),
    "qwen2.5-7b": Qwen2Config(
        vocab_size=152_064, hidden_size=3584, intermediate_size=18_944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4,
    ),
    "qwen3-0.6b": Qwen3Config(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True,
    ),
}  # fmt: skip
PUBLISHED = {"qwen2.5-32b": 32_763_876_352, "qwen2.5-7b": 7_615_616_512, "qwen3-0.6b": 596_049_920}


def shape_of(config, folder):
    config.save_pretrained(folder)
    return read_shape(folder)


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_are_counted_as_transformers_and_peft_make_them(name, tmp_path):
    shape = shape_of(CONFIGS[name], tmp_path)
    targets = ("q_proj", "v_proj", "o_proj", "down_proj")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIGS[name])
        assert shape.parameters == sum(value.numel() for value in model.parameters())
        assert shape.parameters == PUBLISHED.get(name, shape.parameters)
        wrapped = get_peft_model(model, LoraConfig(r=5, target_modules=list(targets)))
    trained = sum(value.numel() for value in wrapped.parameters() if value.requires_grad)
    assert shape.adapter_parameters(5, targets) == trained


def kept_bytes(policy, micro):
    """Bytes of the distinct storages that live on after the forward pass to the rows that predict, without weights.

    Those that autograd saves, as its hooks see them, and those that Python holds: what a recomputed block begins with.
    """
    own = {tensor.untyped_storage().data_ptr() for tensor in tensors_of_python()}
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), policy._precision():
        rows = policy.hidden(micro.tokens, micro.positions, micro.lengths)[micro.predicting]
    for tensor in tensors_of_python():
        keep(tensor)
    assert rows.requires_grad
    return sum(storage.nbytes() for pointer, storage in kept.items() if pointer not in own)


def tensors_of_python():
    gc.collect()
    return [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]


def a_policy(folder, family, **options):
    """A small policy of three blocks, and the sections that it was loaded with."""
    make_model_folder(folder, hidden=64, layers=3, heads=4, key_value_heads=2)
    if family == "qwen3":
        made = json.loads((folder / "config.json").read_text())
        sizes = {name: made[name] for name in [*SMALL, *HEADS, "max_position_embeddings"]}
        AutoModelForCausalLM.from_config(Qwen3Config(**sizes, head_dim=16, eos_token_id=2)).save_pretrained(folder)
    model = ModelConfig(path=folder, device="cpu", lora=LoraSettings(rank=4), **options)
    return load_policy(model, folder, 0), model


def a_micro_batch():
    rng = np.random.default_rng(0)
    return make_micro_batch([Scored(random_trajectory(rng, f"g{k}.0.0", length=200), 1.0) for k in range(3)])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_activations_are_what_autograd_keeps_within_a_tenth(family, training, dtype, tmp_path):
    policy, model = a_policy(tmp_path, family, training=training, dtype=dtype)
    micro, shape = a_micro_batch(), read_shape(tmp_path)
    expected = shape.layers * block_bytes(shape, model) + ends_bytes(shape, model)
    assert kept_bytes(policy, micro) == pytest.approx(len(micro.tokens) * expected, rel=0.1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", ["full", "lora"])
def test_recomputing_keeps_the_stream_between_blocks_alone(training, dtype, tmp_path):
    policy, model = a_policy(tmp_path, "qwen3", training=training, dtype=dtype, recompute_activations=True)
    micro, shape = a_micro_batch(), read_shape(tmp_path)
    expected = shape.layers * stream_bytes(shape, model) + ends_bytes(shape, model)
    assert kept_bytes(policy, micro) == pytest.approx(len(micro.tokens) * expected, rel=0.1)


def test_what_is_held_follows_from_what_is_trained_and_how(tmp_path):
    shape = shape_of(CONFIGS["qwen2.5-32b"], tmp_path)
    lora = ModelConfig(training="lora", dtype="bfloat16")
    made = estimate(shape, lora, BatchConfig(), longest=100)
    adapter = 64 * 16 * (2 * (5120 + 5120) + 2 * (5120 + 1024) + 3 * (5120 + 27_648))
    assert made.base == 2 * 32_763_876_352
    assert made.adapter == made.gradients == 4 * adapter
    assert made.moments == 8 * adapter
    assert made.trained_parameters == adapter
    full = estimate(shape, ModelConfig(dtype="bfloat16"), BatchConfig(), longest=100)
    assert full.base == full.gradients == 4 * 32_763_876_352
    assert full.weight_copies == 2 * 32_763_876_352
    assert full.adapter == 0


def test_processes_share_what_is_held_and_not_what_passes_through(tmp_path):
    shape = shape_of(CONFIGS["qwen2.5-7b"], tmp_path)
    model = ModelConfig(training="full")
    one, four = (estimate(shape, model, BatchConfig(), longest=100, processes=count) for count in (1, 4))
    assert four.base + four.gradients + four.moments == 4 * one.parameters
    assert (four.activations, four.working) == (one.activations, one.working)
    assert one.gathered == 0
    assert four.gathered == 4 * (2 * shape.block_parameters + 2 * 152_064 * 3584)


def test_a_trajectory_longer_than_the_budget_decides(tmp_path):
    shape, model = shape_of(CONFIGS["qwen3-0.6b"], tmp_path), ModelConfig()
    budget = BatchConfig(micro_batch_tokens=1000, log_prob_chunk=100)
    assert estimate(shape, model, budget, longest=4000).pass_tokens == 4000
    assert estimate(shape, model, budget, longest=400).pass_tokens == 1000
    small, large = (
        estimate(shape, model, BatchConfig(micro_batch_tokens=9000, log_prob_chunk=chunk), longest=1)
        for chunk in (4096, 8192)
    )
    assert large.working - small.working == 4096 * 151_936 * 12


def test_another_family_has_no_estimate_and_a_broken_file_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    assert read_shape(tmp_path) is None
    (tmp_path / "config.json").write_text('{"model_type": "qwen2", "num_attention_heads": 4}')
    with pytest.raises(UsageError, match="lacks what a qwen2 model states: 'hidden_size'"):
        read_shape(tmp_path)


def plan(folder, config, shape):
    """A dry run of a config file on a folder that holds config.json and a tokenizer's file alone; what it printed."""
    shape.save_pretrained(folder / "model")
    (folder / "model" / "tokenizer.json").write_text("{}")
    (folder / "train.txt").write_text("a_1\n")
    tasks = folder / "train.txt"
    words = ["--learner.model.path", folder / "model", "--learner.rollout.train_tasks", tasks]
    words += ["--learner.evaluation.tasks", tasks]
    program = (
        "import sys; from common.cli import main\n"
        "code = main(['learner', '--dry-run', *sys.argv[1:]])\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    made = subprocess.run(
        [sys.executable, "-c", program, "--config", config, *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert made.returncode == 0, made.stderr
    return made.stdout


# what each of the run's files is for, and the most that a process of its trainer may need of one GPU's 80 GB
@pytest.mark.parametrize(
    ("config", "shape", "trained"),
    [
        ("appworld-qwen2.5-32b", "qwen2.5-32b", "134,217,728 of 32,763,876,352"),
        ("appworld-qwen2.5-7b", "qwen2.5-7b", "20,185,088 of 7,615,616,512"),
        ("qwen3-0.6b", "qwen3-0.6b", "10,092,544 of 596,049,920"),
        ("tiny", "qwen3-0.6b", "596,049,920 of 596,049,920"),
    ],
)
def test_each_config_passes_a_dry_run_that_prints_an_estimate_without_torch(config, shape, trained, tmp_path):
    printed = plan(tmp_path, ROOT / "configs" / f"{config}.yaml", CONFIGS[shape])
    assert f"# memory estimate: {trained} parameters trained" in printed
    assert "#   together" in printed
    assert "has no weights (*.safetensors): a run needs them there" in printed
    assert "recompute_activations" in printed


@pytest.mark.parametrize(
    ("config", "shape", "processes", "gigabytes"),
    [("appworld-qwen2.5-32b", "qwen2.5-32b", 8, 75), ("appworld-qwen2.5-7b", "qwen2.5-7b", 4, 75),
     ("qwen3-0.6b", "qwen3-0.6b", 1, 14)],
)  # fmt: skip
def test_each_config_fits_the_gpus_that_it_is_for(config, shape, processes, gigabytes, tmp_path):
    learner = load({"learner": LearnerConfig}, ROOT / "configs" / f"{config}.yaml", []).section(
        "learner", LearnerConfig
    )
    made = estimate(
        shape_of(CONFIGS[shape], tmp_path),
        learner.model,
        learner.batch,
        longest=learner.rollout.max_context_tokens,
        processes=processes,
    )
    assert made.total < gigabytes * 1e9


def peak_of_tensors(work, file):
    """Most bytes that tensors held at a time within `work`, of those made in it, as torch's profiler tells."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    recorded.export_chrome_trace(str(file))
    events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])]
    return int(np.cumsum(changes).max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("training", ["full", "lora"])
@pytest.mark.parametrize("recompute", [False, True])
def test_an_update_needs_at_most_the_estimate_and_at_least_seven_tenths_of_it(recompute, training, dtype, tmp_path):
    policy, model = a_policy(tmp_path, "qwen2", training=training, dtype=dtype, recompute_activations=recompute)
    config = LearnerConfig(model=model, batch=BatchConfig(micro_batch_tokens=600, log_prob_chunk=64))
    optimizer, rng = Optimizer(policy.trainable(), config.optimizer), np.random.default_rng(0)
    scored = [Scored(random_trajectory(rng, f"g{k}.0.0", length=200), 1.0) for k in range(6)]

    def step():
        update(policy, optimizer, scored, config, step=1, policy_version=0, seed=1)

    step()  # the moments are made
    made = estimate(read_shape(tmp_path), model, config.batch, longest=200)
    expected = made.gradients + made.weight_copies + made.activations + made.working
    assert 0.7 * expected < peak_of_tensors(step, tmp_path / "trace.json") <= expected
