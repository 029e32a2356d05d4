"""What a configuration will need of memory, told before anything is loaded: `loop learner --dry-run` prints it.

config.json of a model and the sections model and batch -> bytes a process. Pure apart from reading that file, and free
of torch. Parameters are counted exactly. Activations are what autograd keeps of a decoder block as transformers writes
it (its RMSNorm, rotary embedding and gated feed-forward layer, peft's adapters, attention.py), summed term by term.
It counts what tensors hold. What an allocator adds is not in it (glibc's, on a CPU, up to as much again), nor what a
GPU's context takes (about 0.5 GB).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UsageError
from learner.trainer.config import BatchConfig, ModelConfig

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # decoders whose blocks are counted here
FLOAT32 = 4  # bytes: what is trained, its gradient, and each of AdamW's two moments
WIDTH = {"float32": 4, "bfloat16": 2}
GATHERED_BLOCKS = 2  # with several processes: the block at work, and the next, which is fetched meanwhile


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A decoder's shape, as its config.json tells it. All are counts."""

    family: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_width: int
    ff: int
    vocabulary: int
    tied: bool  # one matrix for input and output embeddings
    query_bias: bool  # of q, k and v
    output_bias: bool  # of o
    ff_bias: bool

    @property
    def normed_heads(self) -> bool:
        """Whether queries and keys pass a norm of their own."""
        return self.family == "qwen3"

    def linears(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a block's linear layers."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.ff),
            "up_proj": (self.hidden, self.ff),
            "down_proj": (self.ff, self.hidden),
        }

    @property
    def block_parameters(self) -> int:
        """Of one block."""
        queries, keys = self.heads * self.head_width, self.key_value_heads * self.head_width
        matrices = sum(inputs * outputs for inputs, outputs in self.linears().values())
        biases = self.query_bias * (queries + 2 * keys) + self.output_bias * self.hidden
        biases += self.ff_bias * (2 * self.ff + self.hidden)
        return matrices + biases + 2 * self.hidden + 2 * self.head_width * self.normed_heads

    @property
    def embedding_parameters(self) -> int:
        """Of one embedding; the output's is the same matrix when tied, another of that size when not."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """Of the whole model."""
        embeddings = self.embedding_parameters * (1 if self.tied else 2)
        return self.layers * self.block_parameters + embeddings + self.hidden

    def adapter_parameters(self, rank: int, targets: tuple[str, ...]) -> int:
        """Of a LoRA adapter on the blocks' layers with these names."""
        found = self.linears()
        return self.layers * sum(rank * sum(found[name]) for name in targets if name in found)


def read_shape(folder: Path) -> Shape | None:
    """The shape that config.json in `folder` tells; None for a family that is not counted here.

    Raises:
        UsageError: config.json lacks what a decoder of that family must state.
    """
    file = folder / "config.json"
    config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    family = config.get("model_type")
    if family not in FAMILIES:
        return None
    try:
        heads = int(config["num_attention_heads"])
        return Shape(
            family=family,
            hidden=int(config["hidden_size"]),
            layers=int(config["num_hidden_layers"]),
            heads=heads,
            key_value_heads=int(config.get("num_key_value_heads") or heads),
            # Qwen3 states 128 whatever its width is
            head_width=int(
                config.get("head_dim") or (128 if family == "qwen3" else int(config["hidden_size"]) // heads)
            ),
            ff=int(config["intermediate_size"]),
            vocabulary=int(config["vocab_size"]),
            tied=bool(config.get("tie_word_embeddings", False)),
            query_bias=family == "qwen2" or bool(config.get("attention_bias", False)),
            output_bias=family != "qwen2" and bool(config.get("attention_bias", False)),
            ff_bias=bool(config.get("mlp_bias", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{file}: lacks what a {family} model states: {error}; take the model's own file") from None


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes that each process needs at the worst moment of an update."""

    parameters: int
    trained_parameters: int
    processes: int
    pass_tokens: int  # of the largest micro-batch
    base: int  # weights as they are held
    adapter: int
    gradients: int
    moments: int
    gathered: int  # several processes: whole weights of the blocks at work
    weight_copies: int  # full training in bfloat16: autocast's copies of float32 weights
    activations: int  # kept for the backward pass
    working: int  # the larger of one chunk's logits and one block's backward pass

    @property
    def total(self) -> int:
        """Of one process."""
        held = self.base + self.adapter + self.gradients + self.moments
        return held + self.gathered + self.weight_copies + self.activations + self.working

    def lines(self) -> list[str]:
        """A short table for a person."""
        trained = f"{self.trained_parameters:,} of {self.parameters:,} parameters trained"
        of = f"{self.processes} processes, each" if self.processes > 1 else "1 process"
        rows = {
            "base weights": self.base,
            "adapter": self.adapter,
            "gradients": self.gradients,
            "moments": self.moments,
            "gathered weights": self.gathered,
            "copies of weights": self.weight_copies,
            f"activations, {self.pass_tokens:,} tokens": self.activations,
            "logits or one block": self.working,
            "together": self.total,
        }
        shown = [f"  {name:28} {value / 2**30:9.3f} GiB" for name, value in rows.items() if value]
        return [f"memory estimate: {trained}; {of}:", *shown]


def estimate(shape: Shape, model: ModelConfig, batch: BatchConfig, *, longest: int, processes: int = 1) -> Estimate:
    """What an update needs. `longest` tokens has the longest trajectory, which passes alone when above the budget.

    Weights, adapter, gradients and moments are spread evenly over `processes`; activations are each one's own.
    """
    lora = model.training == "lora"
    adapter = shape.adapter_parameters(model.lora.rank, model.lora.targets) if lora else 0
    trained = adapter if lora else shape.parameters
    tokens = max(batch.micro_batch_tokens, longest)
    width = WIDTH[model.dtype] if lora else FLOAT32  # as held
    block = block_bytes(shape, model)
    kept = shape.layers * (stream_bytes(shape, model) if model.recompute_activations else block)
    backward = (3 * shape.ff + 2 * shape.hidden) * WIDTH[model.dtype]  # gradients of one block on their way
    again = block if model.recompute_activations else 0
    logits = logits_bytes(shape, model, min(batch.log_prob_chunk, tokens))
    whole = GATHERED_BLOCKS * shape.block_parameters + shape.embedding_parameters * (1 if shape.tied else 2)
    return Estimate(
        parameters=shape.parameters,
        trained_parameters=trained,
        processes=processes,
        pass_tokens=tokens,
        base=shape.parameters * width // processes,
        adapter=adapter * FLOAT32 // processes,
        gradients=trained * FLOAT32 // processes,
        moments=2 * trained * FLOAT32 // processes,
        gathered=whole * width if processes > 1 else 0,
        weight_copies=shape.parameters * 2 if model.dtype == "bfloat16" and not lora else 0,
        activations=tokens * (kept + ends_bytes(shape, model)),
        working=max(logits, tokens * (again + backward)),
    )


def stream_bytes(shape: Shape, model: ModelConfig) -> int:
    """Bytes a token of what passes from block to block: all that recomputing keeps of one."""
    # float32 embeddings and norms keep the sum float32 even where matrices compute in bfloat16
    return shape.hidden * (WIDTH[model.dtype] if model.training == "lora" else FLOAT32)


def block_bytes(shape: Shape, model: ModelConfig) -> int:
    """Bytes a token that one block keeps for its backward pass.

    RMSNorm computes in float32 and keeps its input; what it made of that is kept for its weight's gradient, if it is
    trained. A layer keeps its input for its weight's gradient; under autocast every layer keeps a bfloat16 copy of its
    own. Attention keeps queries, keys, values and output; the gated layer keeps gate, activated gate, up and their
    product.
    """
    width, full = WIDTH[model.dtype], model.training == "full"
    copied = model.dtype == "bfloat16"
    adapted = set(shape.linears()) if full else set(model.lora.targets)
    queries, keys = shape.heads * shape.head_width, shape.key_value_heads * shape.head_width
    kept = 0
    for readers in ({"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj"}):
        inputs = len(readers & adapted) if copied else bool(readers & adapted)
        kept += shape.hidden * (FLOAT32 + FLOAT32 * full + width * inputs)
    if shape.normed_heads:
        kept += (queries + keys) * (FLOAT32 + width * full)
    kept += 2 * (queries + keys) * width + queries * width * ("o_proj" in adapted)
    kept += shape.ff * width * (3 + ("down_proj" in adapted))
    if not full:
        kept += model.lora.rank * width * len(adapted & set(shape.linears()))
    return kept


def ends_bytes(shape: Shape, model: ModelConfig) -> int:
    """Bytes a token kept outside the blocks: the last norm, its rows that predict, cosine and sine of positions."""
    width, full = WIDTH[model.dtype], model.training == "full"
    return shape.hidden * (FLOAT32 + FLOAT32 * full + width) + 2 * shape.head_width * width


def logits_bytes(shape: Shape, model: ModelConfig, positions: int) -> int:
    """Bytes while one chunk's gradient is computed: log-softmax, its gradient and what is added to that, [C, V] each.

    In full training also the output embedding's gradient of this chunk beside that of the chunks before.
    """
    logits = positions * shape.vocabulary * (3 * FLOAT32 + (WIDTH[model.dtype] if model.dtype == "bfloat16" else 0))
    return logits + (2 * shape.embedding_parameters * FLOAT32 if model.training == "full" else 0)
