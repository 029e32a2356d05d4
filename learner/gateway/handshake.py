"""What an actor and the gateway must have in common before they work together (stage 4). Pure.

Whatever differs is named with both values and what to do; the actor is refused for good, not graded for it later.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.messages import PROTOCOL_VERSION, Hello

SHOWN = 12  # hex digits of a digest that a person gets to see


@dataclass(frozen=True)
class Common:
    """The gateway's own side of it."""

    run_id: str
    schema_digest: str
    prompt_digest: str
    prompt: str = ""  # its options, for a person
    tokenizer_digest: str = ""  # of the current version; empty before the first, or when it has none

    def difference(self, name: str, hello: Hello) -> str:
        """What differs, and what to do; empty when nothing. `name` is that of the actor's key."""
        upgrade, anew = "install the same version on both sides", "start the actor anew"
        tokenizer = self.tokenizer_digest or hello.tokenizer_digest
        for differs, told in (
            (hello.protocol != PROTOCOL_VERSION, other_protocol(hello.protocol)),
            (
                hello.schema_digest != self.schema_digest,
                f"the messages' schema is {_both(hello.schema_digest, self.schema_digest)}: {upgrade}",
            ),
            (
                hello.actor != name,
                f"it calls itself {hello.actor}, but its key is {name}'s: use the key of that name",
            ),
            (
                hello.run_id not in ("", self.run_id),
                f"it belongs to run {hello.run_id}, this is run {self.run_id}: {anew} to join this one",
            ),
            (
                hello.prompt_digest != self.prompt_digest and hello.prompt != self.prompt,
                f"the prompt is '{hello.prompt}' there, '{self.prompt}' here: give both sides the same section prompt",
            ),
            (
                hello.prompt_digest != self.prompt_digest,
                f"the words of the prompt are {_both(hello.prompt_digest, self.prompt_digest)}: {upgrade}",
            ),
            (
                hello.tokenizer_digest not in ("", tokenizer),
                f"the tokenizer is {_both(hello.tokenizer_digest, tokenizer)}: {anew}, so that it takes the learner's",
            ),
        ):
            if differs:
                return told
        return ""


def other_protocol(there: object) -> str:
    """The reason for refusing another protocol version."""
    shown = there if isinstance(there, int) else "unknown"
    return f"protocol {shown} there, {PROTOCOL_VERSION} here: install the same version on both sides"


def _both(there: str, here: str) -> str:
    return f"{there[:SHOWN]} there, {here[:SHOWN]} here"
