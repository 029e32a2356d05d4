"""Prompts against the chat templates of Qwen2.5 and Qwen3, as transformers renders and tokenizes them."""

from types import SimpleNamespace

import pytest
from qwen_tokenizers import make_tokenizer, template
from transformers import PreTrainedTokenizerFast

from common.errors import UsageError
from common.prompt import Prompt, PromptConfig
from common.prompt_text import PromptText

ME = SimpleNamespace(first_name="Ada", last_name="Moss", email="ada.moss@mail.com", phone_number="123456")
TASK = "Like the song 'Silver River'."
CELLS = ("print(apis.spotify.show_song(song_id=3))", "s = 'naïve ☃'\nprint(s)", "x = [1, 2]\n\n\nx", "print(2)")
OUTPUTS = ('[\n {\n  "title": "Silver River"\n }\n]\n', "naïve ☃\n", "Execution successful.\n", "  indented\n\n\n2\n")
EMPTY = "<think>\n\n</think>\n\n"


def rendered(family, messages, thinking, *, generation=True):
    """Token ids as transformers makes them of a conversation."""
    wrapped = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(family), chat_template=template(family))
    asked = {"enable_thinking": False} if family == "qwen3" and thinking == "off" else {}
    return wrapped.apply_chat_template(messages, add_generation_prompt=generation, return_dict=True, **asked)[
        "input_ids"
    ]


def opening_messages(words):
    head = [{"role": message.role, "content": message.text} for message in words.head]
    return [*head, {"role": "user", "content": words.task(TASK, ME)}]


def played(prompt, words, thoughts):
    """A conversation as an episode makes it, in ids, and in messages; `thoughts` stand before each answer."""
    ids, messages = prompt.opening(TASK, ME), opening_messages(words)
    for cell, output, thought in zip(CELLS, OUTPUTS, thoughts, strict=True):
        said = words.answer(cell, "I look.")
        ids += [*prompt._encode(thought + said), *prompt.stop_ids, *prompt.observation(output, 5000)]
        messages.append({"role": "assistant", "content": thought + said})
        messages.append({"role": "user", "content": words.observation(output.rstrip("\n"))})
    return ids, messages


@pytest.mark.parametrize("form", ["compact", "react"])
@pytest.mark.parametrize(("family", "thinking"), [("qwen2.5", "off"), ("qwen3", "off"), ("qwen3", "on")])
def test_the_opening_is_what_the_models_own_template_renders(family, thinking, form):
    config = PromptConfig(form=form, thinking=thinking)
    prompt = Prompt.of(make_tokenizer(family), config=config)
    assert prompt.opening(TASK, ME) == rendered(family, opening_messages(PromptText(config)), thinking)


@pytest.mark.parametrize("form", ["compact", "react"])
def test_a_whole_conversation_of_qwen25_is_what_its_template_renders(form):
    config = PromptConfig(form=form)
    prompt, words = Prompt.of(make_tokenizer("qwen2.5"), config=config), PromptText(config)
    ids, messages = played(prompt, words, [""] * len(CELLS))
    assert ids == rendered("qwen2.5", messages, "off")


@pytest.mark.parametrize("form", ["compact", "react"])
def test_without_thinking_qwen3s_template_drops_earlier_empty_thoughts_alone(form):
    config = PromptConfig(form=form)
    prompt, words = Prompt.of(make_tokenizer("qwen3"), config=config), PromptText(config)
    ids, messages = played(prompt, words, [""] * len(CELLS))
    empty, header = prompt._encode(EMPTY), [prompt._start, *prompt._encode("assistant\n")]
    assert count(ids, empty) == len(CELLS) + 1  # one a turn, and that of the turn to come
    kept = rendered("qwen3", messages, "off")
    assert without(ids, [*header, *empty], header, times=len(CELLS)) == kept
    assert kept[-len(empty) :] == empty


@pytest.mark.parametrize("form", ["compact", "react"])
def test_with_thinking_qwen3s_template_drops_earlier_thoughts_alone(form):
    config = PromptConfig(form=form, thinking="on")
    prompt, words = Prompt.of(make_tokenizer("qwen3"), config=config), PromptText(config)
    thoughts = [f"<think>\nThe page {number}?\n</think>\n\n" for number in range(len(CELLS))]
    ids, messages = played(prompt, words, thoughts)
    kept = rendered("qwen3", messages, "on")
    for thought in thoughts:
        assert count(ids, prompt._encode(thought)) == 1
        ids = without(ids, prompt._encode(thought), [], times=1)
    assert ids == kept


def test_the_last_turns_thoughts_stand_in_qwen3s_template_as_they_were_sampled():
    config = PromptConfig(form="react", thinking="on")
    prompt, words = Prompt.of(make_tokenizer("qwen3"), config=config), PromptText(config)
    said = f"<think>\nWhich page?\n</think>\n\n{words.answer('print(1)', 'I look.')}"
    ids = [*prompt.opening(TASK, ME), *prompt._encode(said), *prompt.stop_ids, *prompt._encode("\n")]
    spoken = [*opening_messages(words), {"role": "assistant", "content": said}]
    assert ids == rendered("qwen3", spoken, "on", generation=False)


def test_only_a_tokenizer_that_can_think_is_told_not_to():
    plain, thinker = Prompt.of(make_tokenizer("qwen2.5")), Prompt.of(make_tokenizer("qwen3"))
    assert plain.text(plain.opening(TASK, ME)).endswith("<|im_start|>assistant\n")
    assert thinker.text(thinker.opening(TASK, ME)).endswith(f"<|im_start|>assistant\n{EMPTY}")


def test_thinking_on_is_refused_for_a_model_that_does_not_think():
    with pytest.raises(UsageError, match=r"qwen/tokenizer.json: has no token </think>.*set prompt.thinking: off"):
        Prompt.of(make_tokenizer("qwen2.5"), "qwen/tokenizer.json", PromptConfig(thinking="on"))


def count(ids, part):
    return sum(ids[at : at + len(part)] == part for at in range(len(ids)))


def without(ids, part, instead, *, times):
    """`ids` with the first occurrences of a part replaced."""
    left = list(ids)
    for _ in range(times):
        at = next(at for at in range(len(left)) if left[at : at + len(part)] == part)
        left[at : at + len(part)] = instead
    return left
