"""What the benches of one update are made of: shapes, trajectories of skewed lengths, a model folder, a measured child.

Each contestant runs in a process of its own (`contestant`): peak memory is a high-water mark, which only falls when the
kernel is told to, and allocators keep what another contestant left.
"""

import ctypes
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    # the demo's policy (learner.warm_start.model), with a context that takes the long trajectories
    "tiny": {"hidden": 96, "layers": 3, "heads": 3, "key_value_heads": 3, "ff": 256, "vocabulary": 1024},
    # 60.8 million parameters: 27.3 in the blocks, 16.8 in each of the embeddings
    "60m": {"hidden": 512, "layers": 8, "heads": 8, "key_value_heads": 8, "ff": 1536, "vocabulary": 32768},
    # Qwen/Qwen3-0.6B's config.json: 0.6 billion parameters, embeddings tied
    "qwen3-0.6b": {
        "hidden": 1024, "layers": 28, "heads": 16, "key_value_heads": 8, "ff": 3072, "vocabulary": 151_936,
        "head_width": 128, "tied": True,
    },
}  # fmt: skip
LONGEST = {"tiny": 4000, "60m": 2000}


def model_config(shape, context):
    """A Qwen3 of this shape, as transformers describes it."""
    from transformers import Qwen3Config

    return Qwen3Config(
        vocab_size=shape["vocabulary"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["ff"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["key_value_heads"],
        head_dim=shape.get("head_width", shape["hidden"] // shape["heads"]),
        max_position_embeddings=context,
        tie_word_embeddings=shape.get("tied", False),
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )


def make_folder(folder, shape, context, dtype="float32"):
    """Random weights and a tokenizer that knows three words: enough for whoever asks that there be one."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    Qwen3ForCausalLM(model_config(shape, context)).to(getattr(torch, dtype)).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "<end>": 2}, unk_token="<unk>"))
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    ).save_pretrained(folder)


def skewed_lengths(rng, count, longest):
    """Most of 100 to 300 tokens, one in sixteen of half the longest to the longest, one of exactly that."""
    lengths = rng.integers(100, 301, size=count)
    few = max(1, count // 16)
    lengths[:few] = rng.integers(longest // 2, longest + 1, size=few)
    lengths[0] = longest
    return rng.permutation(lengths)


def trajectories(count, longest, vocabulary, seed=0):
    """Token ids, sampled mask, behaviour log-probs, advantage of each: a prompt, then turns and observations by turns.

    The last token is sampled, so that no contestant passes over an end. A new model's log-probs are about -log V; the
    recorded ones differ from that by a tenth of a nat, as a policy that is a few versions on would.
    """
    rng = np.random.default_rng(seed)
    made = []
    for length in skewed_lengths(rng, count, longest):
        sampled = np.zeros(length, bool)
        begin = int(rng.integers(40, 61))
        while begin < length:
            turn = int(rng.integers(20, 61))
            sampled[begin : begin + turn] = True
            begin += turn + int(rng.integers(20, 61))
        sampled[-1] = True
        behaviour = np.zeros(length, np.float32)
        behaviour[sampled] = np.minimum(0, -np.log(vocabulary) + 0.1 * rng.standard_normal(int(sampled.sum())))
        tokens = rng.integers(3, vocabulary, size=length)
        made.append((tokens, sampled, behaviour, float(rng.choice([-1.0, -0.5, 0.5, 1.0]))))
    return made


def scored(made):
    """The same as the learner has them."""
    sys.path.insert(0, str(ROOT / "tests" / "learner" / "trainer"))
    from trainer_building import make_trajectory

    from learner.trainer.advantage import Scored

    result = []
    for number, (tokens, sampled, behaviour, advantage) in enumerate(made):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], sampled.astype(int), [0]]))).reshape(-1, 2)
        turns = [(int(a), int(b)) for a, b in edges]
        log_probs = behaviour[sampled]
        result.append(
            Scored(make_trajectory(f"g{number}.0.0", tokens=tokens, turns=turns, log_probs=log_probs), advantage)
        )
    return result


def learner(folder, options, device="cpu", **sections):
    """The learner's policy, optimizer and configuration; `options` are of its sections model and batch."""
    from learner.config import LearnerConfig
    from learner.trainer.config import BatchConfig, ModelConfig
    from learner.trainer.model import load_policy
    from learner.trainer.optimizer import Optimizer

    def of(section):
        return {name: value for name, value in options.items() if name in section.model_fields}

    model = ModelConfig(path=folder, device=device, **of(ModelConfig))
    config = LearnerConfig(model=model, batch=BatchConfig(**of(BatchConfig)), **sections)
    policy = load_policy(model, Path(folder), 0)
    return policy, Optimizer(policy.trainable(), config.optimizer), config


def resident_megabytes(name="VmRSS"):
    """Of this process, from the kernel: VmRSS now, VmHWM at its highest."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


def measured(work, repeats):
    """Run `work` and measure: the best wall and processor seconds, the highest memory above what was there before.

    What `work` returns last goes with the figures. Call it once before on something short: the first call imports,
    starts threads and makes the optimizer's moments, which every later one finds.
    """
    seconds, processor, peaks, told = [], [], [], None
    for _ in range(repeats):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the high-water mark falls to what is there
        before, began, began_processor = resident_megabytes(), time.perf_counter(), time.process_time()
        told = work()
        seconds.append(time.perf_counter() - began)
        processor.append(time.process_time() - began_processor)
        peaks.append(resident_megabytes("VmHWM") - before)
    return {
        "seconds": round(min(seconds), 3),
        "processor_seconds": round(min(processor), 3),
        "peak_megabytes": round(max(peaks), 1),
        "before_megabytes": round(before, 1),
        **told,
    }


def contestant(python, script, name, options, threads):
    """Run `script --contestant name` in a process of its own; its figures, or why there are none."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRL_EXPERIMENTAL_SILENCE": "1",
    }
    words = [str(python), str(script), "--contestant", name]
    for key, value in options.items():
        words += [f"--{key}", str(value)]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        reason = (
            "ended by the kernel: out of memory?" if done.returncode == -9 else done.stderr.strip().splitlines()[-1]
        )
        return {"failed": reason[:300]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def prepared(options):
    """In a child: a contestant's trajectories, those that it warms up on, and torch's threads as asked for."""
    import torch

    torch.set_num_threads(options.threads)
    vocabulary = SHAPES[options.shape]["vocabulary"]
    return trajectories(options.trajectories, options.longest, vocabulary), trajectories(8, 128, vocabulary, seed=1)
