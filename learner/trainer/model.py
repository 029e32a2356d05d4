"""The one copy of the LLM: a Hugging Face folder -> a policy whose sampled tokens' log-probs carry gradients.

Log-probs are those of the distribution at temperature 1, as the engine reports them; groups.py refuses trajectories
sampled at another. All weights are trained, or a LoRA adapter on the frozen base; what is trained is float32.
In several processes each holds its share of every weight (ranks.py); all of them score and publish together.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from common.errors import UsageError
from learner.trainer import attention
from learner.trainer.batch import MicroBatch
from learner.trainer.config import LoraSettings, ModelConfig
from learner.trainer.model_folder import check_folder
from learner.trainer.ranks import ALONE, Ranks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
T = TypeVar("T")
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}  # nats, for the check of a model's packed path when it is loaded


@dataclass(frozen=True, eq=False)
class Policy:
    """The policy being trained. V token ids, H hidden size."""

    module: torch.nn.Module  # what is trained: the model itself, or peft's wrapper around it
    causal: PreTrainedModel  # the Hugging Face model inside
    config: ModelConfig
    device: torch.device
    ranks: Ranks = ALONE
    sharded: torch.nn.Module | None = None  # around `module`, where several ranks share the weights
    on_pass: Callable[[], None] = lambda: None  # before each pass through the model

    @property
    def vocabulary(self) -> int:
        """Token ids are below it."""
        embedding: torch.Tensor = self.causal.get_input_embeddings().weight  # type: ignore[assignment]
        return len(embedding)

    @property
    def context(self) -> int:
        """Positions that the model has, tokens."""
        return int(self.causal.config.get_text_config().max_position_embeddings)

    @property
    def head(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Hidden states [..., H] -> logits [..., V]."""
        layer: Callable[[torch.Tensor], torch.Tensor] = self.causal.get_output_embeddings()  # type: ignore[no-untyped-call]
        return layer

    @property
    def is_adapter(self) -> bool:
        """Whether a LoRA adapter is trained rather than all weights."""
        return self.config.training == "lora"

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by name, in a fixed order."""
        return {name: value for name, value in self.module.named_parameters() if value.requires_grad}

    def log_probs(self, micro: MicroBatch, chunk: int, *, entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Log-probs of the targets in nats, float32 [S]; and the distributions' entropies, float32 [S], if asked for.

        Logits exist for at most `chunk` positions at a time: each chunk's are computed again for the gradient.
        """
        return self._with_weights(lambda: self._log_probs(micro, chunk, entropy=entropy))

    def _log_probs(self, micro: MicroBatch, chunk: int, *, entropy: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        with self._precision():
            hidden = self.hidden(micro.tokens, micro.positions, micro.lengths)[micro.predicting]  # [S, H]
            head = self.head
            if len(hidden) <= chunk:
                return _log_probs_of(head, hidden, micro.targets, entropy=entropy)
            parts = [
                checkpoint(_log_probs_of, head, h, t, entropy=entropy, use_reentrant=False, preserve_rng_state=False)
                for h, t in zip(torch.split(hidden, chunk), torch.split(micro.targets, chunk), strict=True)
            ]
        entropies = torch.cat([part[1] for part in parts]) if entropy else None
        return torch.cat([part[0] for part in parts]), entropies

    @torch.no_grad()
    def base_log_probs(self, micro: MicroBatch, chunk: int) -> torch.Tensor:
        """Log-probs of the targets by the base, which is the policy with its adapter switched off, float32 [S]."""
        adapted: Any = self.module
        with adapted.disable_adapter(), evaluating(self.module):
            return self.log_probs(micro, chunk, entropy=False)[0]

    def hidden(self, tokens: torch.Tensor, positions: torch.Tensor, lengths: tuple[int, ...]) -> torch.Tensor:
        """Last hidden states [P, H] of trajectories that lie end to end: tokens and positions [P]."""
        decoder: Callable[..., Any] = self.causal.get_decoder()  # type: ignore[no-untyped-call]
        output = decoder(
            input_ids=tokens[None], position_ids=positions[None], use_cache=False, document_lengths=lengths
        )
        state: torch.Tensor = output.last_hidden_state[0]
        return state

    @torch.no_grad()
    def score(self, tokens: list[int]) -> list[float]:
        """Log p(tokens[i+1] | tokens[:i+1]) at temperature 1 in nats: one less than there are tokens."""
        ids = torch.tensor(tokens, device=self.device)
        with evaluating(self.module):
            values = self._with_weights(lambda: self._score(ids))
        return [float(value) for value in values]

    def _score(self, ids: torch.Tensor) -> torch.Tensor:
        with self._precision():
            hidden = self.hidden(ids[:-1], torch.arange(len(ids) - 1, device=self.device), (len(ids) - 1,))
            return _log_probs_of(self.head, hidden, ids[1:], entropy=False)[0]

    def _with_weights(self, compute: Callable[[], T]) -> T:
        """What `compute` gives while the weights that it uses are gathered; every rank calls it."""
        self.on_pass()
        if self.sharded is None:
            return compute()
        made: T = self.sharded(compute)
        if not torch.is_grad_enabled():
            # no backward pass will do it, and the next step would compute with weights from before it
            self.sharded.reshard()  # type: ignore[operator]
        return made

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 computes under autocast, so that what is trained stays float32."""
        enabled = self.config.dtype == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if enabled else contextlib.nullcontext()


def _log_probs_of(
    head: Callable[[torch.Tensor], torch.Tensor], hidden: torch.Tensor, targets: torch.Tensor, *, entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states [C, H], targets [C] -> log-probs [C] with gradient, entropies [C] without. Holds logits [C, V]."""
    log_probs = torch.log_softmax(head(hidden).float(), -1)  # [C, V]
    chosen = log_probs.gather(-1, targets[:, None])[:, 0]
    if not entropy:
        return chosen, None
    with torch.no_grad():
        return chosen, -(log_probs.exp() * log_probs).sum(-1)


class _Sharded(torch.nn.Module):
    """A forward pass of whatever is computed from a module: decoder and head are called apart, but gathered as one."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], T]) -> T:
        return compute()


def load_policy(config: ModelConfig, folder: Path, seed: int, ranks: Ranks = ALONE) -> Policy:
    """The policy in `folder`, ready to train; `seed` draws a new adapter's weights.

    Raises:
        UsageError: no such folder, no tokenizer, weights missing, or a model whose packed path is not its own.
    """
    check_folder(folder)
    attention.register()
    device = _device(config.device, ranks)
    stored = DTYPES[config.dtype] if config.training == "lora" else torch.float32
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=stored,
            attn_implementation=attention.DOCUMENTS,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder}: not a causal language model: {' '.join(str(error).split())[:300]}") from None
    causal: PreTrainedModel = loaded[0]
    info: dict[str, Any] = loaded[1]
    if info["missing_keys"] or info["mismatched_keys"]:
        name = min(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
        raise UsageError(f"{folder}: weights lack {name} or have it in another shape; take a complete model folder")
    if ranks.is_alone:  # else each rank takes its share to its device, layer by layer
        torch.nn.Module.to(causal, device)
    module = _with_adapter(causal, config.lora, seed) if config.training == "lora" else causal
    if config.recompute_activations:
        causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    sharded = None
    if ranks.is_alone:
        for parameter in module.parameters():
            # weights as loaded lie anywhere in the file's memory map; sums of matrix kernels may depend on alignment
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    else:
        sharded = _Sharded(module)
        kinds = set(causal._no_split_modules or ())  # noqa: SLF001 - transformers' own name for a model's layers
        ranks.shard(sharded, [part for part in module.modules() if type(part).__name__ in kinds], device)
    module.train()
    policy = Policy(module, causal, config, device, ranks, sharded)
    _check_packed_path(policy, folder)
    return policy


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Dropout off for a while."""
    was = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was)


def _with_adapter(causal: PreTrainedModel, lora: LoraSettings, seed: int) -> torch.nn.Module:
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415 - seconds to import, and full fine-tuning needs none

    torch.manual_seed(seed)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        task_type="CAUSAL_LM",
    )
    try:
        module: torch.nn.Module = get_peft_model(causal, settings)
        # what is written into adapter_config.json: the base is the run's version 0, which lies beside the adapter (peft
        # put this machine's path there), and the targets have an order (peft makes a set, whose order varies)
        settings.base_model_name_or_path = "../v000000"
        settings.target_modules = list(lora.targets)
    except ValueError as error:
        raise UsageError(f"learner.model.lora.targets: {' '.join(str(error).split())[:300]}") from None
    causal.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return module


def _device(wanted: str, ranks: Ranks) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UsageError("learner.model.device: cuda, but torch sees no GPU here; set auto or cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if ranks.local >= torch.cuda.device_count():
        raise UsageError(f"--nproc: each rank needs a GPU of its own, this machine has {torch.cuda.device_count()}")
    return torch.device("cuda", ranks.local) if not ranks.is_alone else torch.device("cuda")


@torch.no_grad()
def _check_packed_path(policy: Policy, folder: Path) -> None:
    """Two trajectories packed must score as transformers scores each alone by its own attention.

    Catches what the packed path would leave out without a word: scaled or capped logits, windows, attention sinks.
    """
    length = max(2, min(24, policy.context - 1))
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(policy.vocabulary, (2, length), generator=generator).to(policy.device)
    positions = torch.arange(length - 1, device=policy.device)
    tokens, targets = ids[:, :-1].reshape(-1), ids[:, 1:].reshape(-1)
    try:
        with policy._precision(), evaluating(policy.module):  # noqa: SLF001 - of this file
            ours, _ = policy._with_weights(  # noqa: SLF001
                lambda: _log_probs_of(
                    policy.head,
                    policy.hidden(tokens, positions.repeat(2), (length - 1, length - 1)),
                    targets,
                    entropy=False,
                )
            )
            policy.causal.set_attn_implementation("sdpa")
            alone = policy._with_weights(lambda: policy.causal(input_ids=ids[:, :-1], use_cache=False))  # noqa: SLF001
    except (ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"{folder}: cannot be trained packed: {' '.join(str(error).split())[:200]}") from None
    finally:
        policy.causal.set_attn_implementation(attention.DOCUMENTS)
    logits = alone.logits.float()
    theirs = torch.log_softmax(logits, -1).reshape(len(targets), -1).gather(-1, targets[:, None])[:, 0]
    difference = float((ours - theirs).abs().max())
    if not difference <= TOLERANCE[policy.config.dtype]:
        kind = type(policy.causal).__name__
        raise UsageError(f"{folder}: {kind} packed differs from itself by {difference:.2g} nats; it is not supported")
