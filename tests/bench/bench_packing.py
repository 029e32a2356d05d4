"""One forward and backward pass over skewed trajectories: packed, sorted and padded, and packed under one dense mask.

    python tests/bench/bench_packing.py [--hidden 96 --layers 3 --trajectories 72 --budget 4096] [--json]

The same model, tokens and loss positions for each; processor seconds, best of `--repeats`. It is why batch.py packs.
"""

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from learner.trainer import attention
from learner.trainer.batch import pack


def make_model(options, implementation):
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=options.vocabulary,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 8 // 3,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 32,
        num_key_value_heads=options.hidden // 32,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    config._attn_implementation = implementation
    return Qwen2ForCausalLM(config)


def backward(model, hidden, ids, positions):
    """Log-probs of every third token, as about a third is sampled."""
    chosen = positions[::3]
    log_probs = torch.log_softmax(model.lm_head(hidden[chosen]), -1)
    log_probs.gather(-1, ids[chosen + 1, None]).sum().backward()


def packed(model, documents, budget):
    lengths = [len(document) for document in documents]
    for bin_ in pack(lengths, budget):
        own = [documents[i] for i in bin_]
        ids = torch.cat(own)
        positions = torch.cat([torch.arange(len(document)) for document in own])
        extra = {}
        if model.config._attn_implementation == attention.DOCUMENTS:
            extra["document_lengths"] = tuple(len(document) for document in own)
        hidden = model.model(ids[None], position_ids=positions[None], use_cache=False, **extra).last_hidden_state[0]
        starts = np.cumsum([0, *(len(document) for document in own)])
        inner = [torch.arange(a, b - 1) for a, b in itertools.pairwise(starts)]
        backward(model, hidden, ids, torch.cat(inner))


def padded(model, documents, budget):
    rows = []
    for document in [*sorted(documents, key=len, reverse=True), None]:
        if document is None or (rows and (len(rows) + 1) * len(rows[0]) > budget):
            width = len(rows[0])
            ids = torch.stack([torch.nn.functional.pad(row, (0, width - len(row))) for row in rows])
            hidden = model.model(ids, use_cache=False).last_hidden_state  # padding on the right: causality hides it
            inner = [torch.arange(len(row) - 1) + i * width for i, row in enumerate(rows)]
            backward(model, hidden.flatten(0, 1), ids.flatten(), torch.cat(inner))
            rows = []
        if document is not None:
            rows.append(document)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("hidden", 96), ("layers", 3), ("vocabulary", 1000), ("trajectories", 72), ("budget", 4096)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    attention.register()
    lengths = np.clip(np.random.default_rng(0).gamma(3, 90, options.trajectories).astype(int), 40, 900)
    documents = [torch.randint(options.vocabulary, (int(length),)) for length in lengths]
    made = {"tokens": int(lengths.sum()), "longest": int(lengths.max()), "threads": 1}
    for name, run, implementation in (
        ("packed", packed, attention.DOCUMENTS),
        ("padded", padded, "sdpa"),
        ("packed_dense_mask", packed, "sdpa"),
    ):
        model, seconds = make_model(options, implementation), []
        for _ in range(options.repeats):
            model.zero_grad()
            begin = time.process_time()
            run(model, documents, options.budget)
            seconds.append(time.process_time() - begin)
        made[f"{name}_seconds"] = round(min(seconds), 3)
    print(json.dumps(made) if options.json else "\n".join(f"{name:26} {value}" for name, value in made.items()))


if __name__ == "__main__":
    main()
