"""What must be the same on both sides before they work together, and how a difference is told."""

from __future__ import annotations

import pytest
from gateway_builders import make_hello, make_reception, make_run
from hypothesis import given, settings
from hypothesis import strategies as st

from common.checkpoint import FileEntry, Manifest, Probe, publish
from common.messages import PROTOCOL_VERSION, Refused, Welcome
from common.prompt import PromptConfig, form_digest
from common.wire import encode, schema_digest, unpack
from learner.gateway.handshake import Common
from learner.gateway.ledger import Version

SPOKEN = str(PromptConfig())
HERE = Common(run_id="r", schema_digest="aa" * 32, prompt_digest="bb" * 32, prompt=SPOKEN, tokenizer_digest="cc" * 32)
SAME = {
    "schema_digest": "aa" * 32,
    "prompt_digest": "bb" * 32,
    "prompt": SPOKEN,
    "tokenizer_digest": "cc" * 32,
    "run_id": "r",
}


def test_who_has_all_in_common_is_let_in():
    assert HERE.difference("actor-0", make_hello(**SAME)) == ""
    assert HERE.difference("actor-0", make_hello(**{**SAME, "tokenizer_digest": "", "run_id": ""})) == ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"protocol": 7}, f"protocol 7 there, {PROTOCOL_VERSION} here: install the same version on both sides"),
        ({"schema_digest": "dd" * 32}, "the messages' schema is dddddddddddd there, aaaaaaaaaaaa here: install"),
        ({"prompt_digest": "dd" * 32}, "the words of the prompt are dddddddddddd there, bbbbbbbbbbbb here: install"),
        (
            {"prompt_digest": "dd" * 32, "prompt": "react, thinking on, observation_tokens 3000"},
            f"the prompt is 'react, thinking on, observation_tokens 3000' there, '{SPOKEN}' here: give both sides",
        ),
        (
            {"tokenizer_digest": "dd" * 32},
            "the tokenizer is dddddddddddd there, cccccccccccc here: start",
        ),
        ({"run_id": "other"}, "it belongs to run other, this is run r: start the actor anew"),
        ({"actor": "actor-1"}, "it calls itself actor-1, but its key is actor-0's: use the key of that name"),
    ],
)
def test_what_differs_is_named_with_both_values_and_what_to_do(change, told):
    assert HERE.difference("actor-0", make_hello(**{**SAME, **change})).startswith(told)


def test_the_gateway_refuses_for_good_and_the_refused_actor_is_not_heard(tmp_path):
    run = make_run(tmp_path)
    reception = make_reception(run)
    answer = reception.answer("actor-0", b"r1", encode(make_hello(prompt_digest="dd" * 32)))
    assert isinstance(answer, Refused)
    assert not answer.temporary
    assert "the words of the prompt are dddddddddddd there" in answer.reason
    assert list(reception.peers.present) == []
    assert isinstance(reception.answer("actor-0", b"r1", encode(make_hello(run_id=run.run_id))), Welcome)
    run.close()


def test_an_actor_with_another_prompt_is_refused_by_a_line_that_says_what_differs(tmp_path):
    run = make_run(tmp_path, prompt=PromptConfig(form="react", observation_tokens=2000))
    reception = make_reception(run)
    theirs = PromptConfig(form="react")
    hello = make_hello(prompt=str(theirs), prompt_digest=form_digest(theirs))
    refused = reception.answer("actor-0", b"r1", encode(hello))
    assert isinstance(refused, Refused)
    assert refused.reason == (
        "the prompt is 'react, thinking off, observation_tokens 3000, long_context end' there, 'react, thinking off, "
        "observation_tokens 2000, long_context end' here: give both sides the same section prompt"
    )
    ours = make_hello(prompt=str(run.prompt), prompt_digest=form_digest(run.prompt))
    assert isinstance(reception.answer("actor-0", b"r1", encode(ours)), Welcome)
    run.close()


@settings(max_examples=20)  # a ledger each: the disk has its own time
@given(protocol=st.integers(min_value=0, max_value=99).filter(lambda number: number != PROTOCOL_VERSION))
def test_a_hello_of_another_protocol_is_told_so_even_when_its_fields_are_not_known_here(tmp_path_factory, protocol):
    import msgpack

    run = make_run(tmp_path_factory.mktemp("run"))
    later = {**unpack(encode(make_hello())), "protocol": protocol, "field_of_the_future": 1}
    answer = make_reception(run).answer("actor-0", b"r1", msgpack.packb(later))
    assert isinstance(answer, Refused)
    assert answer.reason.startswith(f"protocol {protocol} there, {PROTOCOL_VERSION} here")
    run.close()


def published(folder, version, *, tokenizer, base=None):
    manifest = Manifest(
        run_id="r",
        policy_version=version,
        kind="adapter" if base is not None else "full",
        base_version=base,
        step=version,
        files={},
        probe=Probe(tokens=(1, 2), log_probs=(-1.0,)),
    )

    def write(draft):
        (draft / "weights").write_bytes(b"w")
        if tokenizer:
            (draft / "tokenizer.json").write_bytes(tokenizer)

    return publish(folder / "checkpoints", manifest, write)


def test_the_tokenizer_is_the_current_versions_or_that_of_the_version_it_sits_on(tmp_path):
    run = make_run(tmp_path)
    assert run.tokenizer_digest == ""
    for version, base in ((0, None), (1, 0)):
        digest = published(tmp_path, version, tokenizer=b"{}" if base is None else b"", base=base)
        run.ledger.publish(Version(version, digest, version), 0, 0)
        run.publish(Version(version, digest, version))
        run.commit()
        assert run.tokenizer_digest == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    answer = make_reception(run).answer("actor-0", b"r1", encode(make_hello(tokenizer_digest="dd" * 32)))
    assert isinstance(answer, Refused)
    assert "the tokenizer is dddddddddddd there, 44136fa355b3 here" in answer.reason
    run.close()


def test_both_digests_are_of_what_is_installed_here():
    assert len(schema_digest()) == len(form_digest()) == len(FileEntry(size=0, sha256=form_digest()).sha256) == 64
    assert schema_digest() != form_digest()
