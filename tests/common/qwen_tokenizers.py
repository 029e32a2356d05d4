"""Small tokenizers that carry Qwen's special tokens in Qwen's way, and the chat templates of both families."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = Path(__file__).parent
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>")
PLAIN = ("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|file_sep|>")
THOUGHTS = ("<tool_response>", "</tool_response>", "<think>", "</think>")
FAMILIES = {"qwen2.5": PLAIN, "qwen3": (*PLAIN, *THOUGHTS)}
TEXTS = (
    "user\nassistant\nsystem\nOutput:\n```\nExecution successful.\n```",
    "```python\nwhile page := apis.simple_note.search_notes(page_index=index):\n    print(page)\n```",
    '\n\n[\n {\n  "name": "simple_note",\n  "tags": "0123456789"\n },\n\n   and    then, I look at it\'s   pages.\n',
)


def make_tokenizer(family: str) -> Tokenizer:
    """Of 'qwen2.5' or 'qwen3': its split, normalizer and added tokens over few merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in FAMILIES[family]])
    return tokenizer


def template(family: str) -> str:
    return (HERE / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")
