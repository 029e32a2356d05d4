"""Supervised fine-tuning of a small model: examples in, a trained model and its figures out. CPU, fp32, deterministic.

Counted in steps, never in seconds: the same seed and the same number of threads give the same weights.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils.logging import disable_progress_bar

from common.log import get_logger
from learner.warm_start.config import ModelShape, WarmStartConfig
from learner.warm_start.curriculum import Example
from learner.warm_start.tokenizer import PAD_ID

log = get_logger(__name__)

IGNORED = -100  # a target that no loss is taken on
LOG_EVERY = 100
EMBEDDING_DEVIATION, COPIED_SHARE = 0.5, 0.6


def make_model(shape: ModelShape, vocabulary: int, stop: int) -> PreTrainedModel:
    """A Qwen3-shaped model with random weights drawn from torch's generator. fp32.

    Not Qwen2: transformers 5 puts that one's own split of text over whatever tokenizer.json says.
    """
    model: PreTrainedModel = Qwen3ForCausalLM(  # type: ignore[no-untyped-call]
        Qwen3Config(
            vocab_size=vocabulary,
            hidden_size=shape.hidden,
            intermediate_size=shape.ff,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.hidden // shape.heads,
            max_position_embeddings=shape.context,
            rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
            initializer_range=shape.initial_deviation,
            tie_word_embeddings=False,
            use_cache=False,
            bos_token_id=None,
            eos_token_id=stop,
            pad_token_id=PAD_ID,
        )
    )
    _prefer_copying(model, shape)
    return model


@torch.no_grad()
def _prefer_copying(model: PreTrainedModel, shape: ModelShape) -> None:
    """Initial weights with which a token that is attended to raises its own logit, in place.

    Copying is then learned in a third fewer steps. After "Mimetic Initialization of Self-Attention Layers"
    (arXiv 2305.09828): each layer's output projection undoes its value projection.
    """
    embeddings = model.model.embed_tokens.weight
    embeddings.normal_(0.0, EMBEDDING_DEVIATION)  # outweighs what the layers add
    model.lm_head.weight.copy_(embeddings * (shape.initial_deviation / EMBEDDING_DEVIATION))
    for layer in model.model.layers:
        rotation = torch.linalg.qr(torch.randn(shape.hidden, shape.hidden)).Q
        layer.self_attn.v_proj.weight.copy_(rotation)
        layer.self_attn.o_proj.weight.copy_(COPIED_SHARE * rotation.T)


@dataclass(frozen=True)
class PaddedBatch:
    """Examples side by side: B of them, T tokens of the longest. Padding is on the right, so causality hides it."""

    tokens: torch.Tensor  # int64 [B, T]
    targets: torch.Tensor  # int64 [B, T]: the next token, IGNORED where there is no loss
    weights: torch.Tensor  # float32 [B, T]: 1 where the policy samples the target, less where it reads it


def pad(examples: Sequence[Example], context_weight: float) -> PaddedBatch:
    """One batch."""
    shape = (len(examples), max(len(example.tokens) for example in examples))
    tokens = torch.full(shape, PAD_ID, dtype=torch.int64)
    targets = torch.full(shape, IGNORED, dtype=torch.int64)
    weights = torch.zeros(shape)
    for row, example in enumerate(examples):
        ids, sampled = torch.from_numpy(example.tokens).long(), torch.from_numpy(example.sampled)
        tokens[row, : len(ids)] = ids
        weight = torch.where(sampled[1:], 1.0, context_weight)
        weights[row, : len(ids) - 1] = weight
        targets[row, : len(ids) - 1] = torch.where(weight > 0, ids[1:], IGNORED)
    return PaddedBatch(tokens, targets, weights)


def rate(step: int, config: WarmStartConfig) -> float:
    """The learning rate of a step (from 0): linear warm-up, flat, then linear to 0."""
    rising = min(1.0, (step + 1) / max(1, config.warm_up))
    falling_from = config.steps * config.flat
    falling = 1.0 - max(0.0, step - falling_from) / max(1.0, config.steps - falling_from)
    return config.learning_rate * min(rising, falling)


def loss_of(model: PreTrainedModel, batch: PaddedBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Weighted sum of the cross-entropy in nats, and the logits [N, V] where a loss is taken.

    The head is applied only there: it is a third of the model.
    """
    hidden = model.model(input_ids=batch.tokens).last_hidden_state  # [B, T, H]
    taken = batch.targets != IGNORED
    logits = model.lm_head(hidden[taken])  # [N, V]
    losses = torch.nn.functional.cross_entropy(logits, batch.targets[taken], reduction="none")
    return (losses * batch.weights[taken]).sum(), logits


def train(
    model: PreTrainedModel,
    batches: Iterator[Sequence[Example]],
    config: WarmStartConfig,
) -> float:
    """Train in place on one batch a step; returns the mean loss of the last steps, nats.

    A batch is shared out between `config.threads` threads of one core each: the matrices of a small model are too
    small for the threads of one operation (measured: 300 steps took 1.3 times as long with two as with one).
    """
    optimizer = _optimizer(model, config)
    parameters = list(model.parameters())
    model.train()
    recent: list[float] = []
    mean = math.nan
    with ThreadPoolExecutor(config.threads) as pool:
        for step in range(config.steps):
            for group in optimizer.param_groups:
                group["lr"] = rate(step, config)
            examples = next(batches)
            parts = [pad(part, config.context_weight) for part in _parts(examples, config.threads)]
            found = list(pool.map(partial(_gradient, model, parameters), parts))
            weight = sum(float(part.weights.sum()) for part in parts)
            for parameter, *gradients in zip(parameters, *(gradient for _, gradient in found), strict=True):
                parameter.grad = torch.stack(gradients).sum(0) / weight
            torch.nn.utils.clip_grad_norm_(parameters, config.clip)
            optimizer.step()
            recent.append(sum(loss for loss, _ in found) / weight)
            if (step + 1) % LOG_EVERY == 0 or step + 1 == config.steps:
                mean = sum(recent) / len(recent)
                told = {"step": step + 1, "steps": config.steps, "loss": round(mean, 4), "rate": rate(step, config)}
                log.info("warm_start_step", **told)
                recent.clear()
    return mean


def _parts(examples: Sequence[Example], count: int) -> list[list[Example]]:
    """At most `count` parts, none empty, of about as many tokens each: the longest are dealt out first."""
    longest = sorted(examples, key=lambda example: -len(example.tokens))
    parts: list[list[Example]] = [[] for _ in range(min(count, len(examples)))]
    for example in longest:
        min(parts, key=lambda part: sum(len(one.tokens) for one in part)).append(example)
    return parts


def _gradient(
    model: PreTrainedModel, parameters: Sequence[torch.Tensor], part: PaddedBatch
) -> tuple[float, Sequence[torch.Tensor]]:
    """A part's loss, nats, and its gradient by parameter; neither is divided by the weights yet."""
    loss, _ = loss_of(model, part)
    return loss.item(), torch.autograd.grad(loss, parameters)


def _optimizer(model: PreTrainedModel, config: WarmStartConfig) -> torch.optim.Optimizer:
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


@torch.no_grad()
def measure(model: PreTrainedModel, examples: Mapping[str, Sequence[Example]]) -> dict[str, Any]:
    """Held-out loss (nats a sampled token), token accuracy, and by scenario the accuracy and the share of exact turns.

    A turn is exact when each of its tokens is the likeliest after the demonstration's own.
    """
    model.train(mode=False)
    losses: list[float] = []
    tokens: dict[str, list[bool]] = defaultdict(list)
    turns: dict[str, list[bool]] = defaultdict(list)
    for scenario, own in examples.items():
        for example in own:
            batch = pad([example], 0.0)
            loss, logits = loss_of(model, batch)
            hits = (logits.argmax(-1) == batch.targets[batch.targets != IGNORED]).numpy()
            losses += [loss.item() / len(hits)] * len(hits)
            tokens[scenario] += hits.tolist()
            begins = np.flatnonzero(np.diff(example.sampled.astype(np.int8)) == 1) + 1
            edges = np.cumsum(example.sampled)[begins] - 1
            turns[scenario] += [bool(turn.all()) for turn in np.split(hits, edges[1:])]
    return {
        "held_out_loss": _mean(losses),
        "held_out_accuracy": _mean([hit for hits in tokens.values() for hit in hits]),
        "by_scenario": {
            name: {"token_accuracy": _mean(tokens[name]), "exact_turns": _mean(turns[name])} for name in sorted(tokens)
        },
    }


def _mean(values: Sequence[float]) -> float:
    """NaN-free: 0 for nothing, which a share of nothing may be shown as."""
    return round(float(np.mean(values)), 4) if values else 0.0


def save(folder: Path, model: PreTrainedModel) -> None:
    """Config, safetensors and generation defaults, as every Hugging Face directory has them."""
    model.config.use_cache = True
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=True, temperature=1.0, eos_token_id=model.config.eos_token_id, pad_token_id=model.config.pad_token_id
    )
    disable_progress_bar()  # type: ignore[no-untyped-call]  # one file of a few MB; bars of a library garble the log
    model.save_pretrained(folder, safe_serialization=True)
