"""A byte-level BPE tokenizer for a policy made from nothing. Demonstrations' text in, tokenizer out.

The split before BPE decides what can be copied: a value must be the same tokens in an instruction, in an observation
and in code, whatever stands around it. So words carry no space, digits go in twos from the left, and punctuation runs
together with the spaces beside it. Dotted names are one piece with the bracket or equals sign after them
(`apis.phone.login(`), which only code has: an API is then one choice of the policy and one step of the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from common.prompt import START, STOP

PAD, PAD_ID = "<|endoftext|>", 0
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
KEYWORD = "(?:for|in|if|else|and|or)"
PIECES = (
    r"[\p{L}_]+(?:\.[\p{L}_]+)*[(=]?",  # a word, or a dotted name and what opens its arguments
    r"\p{N}{1,2}",
    r"\n *",  # a line end with the next line's indentation
    rf" {KEYWORD} ",
    rf" ?[^\s\p{{L}}\p{{N}}_]+(?: (?!{KEYWORD} ))?",  # punctuation, with the spaces around an operator or after a comma
    r"\s",
)


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """At most `vocabulary` tokens: 256 bytes, three special tokens, the rest merges seen in `texts`. Deterministic."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("|".join(PIECES)), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, context: int) -> None:
    """tokenizer.json and what transformers wants beside it, the chat template with it. `context`: tokens at most."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 - slow to import, and only needed here

    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=STOP,
        pad_token=PAD,
        model_max_length=context,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )
    wrapped.save_pretrained(folder)
