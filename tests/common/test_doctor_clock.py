"""This machine's clock beside the learner's, over a real link: right, wrong, and where it cannot be told."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
from link_ends import learner, welcoming

from common import doctor_clock
from common.config import LinkConfig
from common.doctor_clock import against_learner, difference, judge
from common.messages import Refused, Status


def showing(skew):
    """A learner whose clock is `skew` seconds ahead of ours."""
    fields = {name: field.examples[0] for name, field in Status.model_fields.items() if field.examples is not None}
    status = Status(**fields)
    return lambda _: status.model_copy(update={"at": time.time() + skew})


def found(keys, answer, name="actor-0"):
    """What an actor's doctor finds at a learner that answers so, and what that has heard."""

    async def scenario():
        async with learner(keys, answer) as there:
            link = LinkConfig(port=there.port, keys=keys)
            return await asyncio.to_thread(against_learner, link, name, wanted=True), there.heard

    return asyncio.run(asyncio.wait_for(scenario(), 30))


def test_clocks_that_agree_are_well_and_nothing_but_the_status_is_asked(keys):
    finding, heard = found(keys, showing(0.0))
    assert finding.state == "ok"
    assert " ms " in finding.text
    assert {message.kind for _, message in heard} == {"status_request"}


@pytest.mark.parametrize(("skew", "side"), [(100.0, "behind"), (-100.0, "ahead of")])
def test_a_clock_that_differs_is_told_with_its_side_and_ntp(keys, skew, side):
    finding, _ = found(keys, showing(skew))
    assert finding.state == "warning"
    assert float(finding.text.split(" is ")[1].split(" s ")[0]) == pytest.approx(100.0, abs=20.0)
    assert finding.text.endswith(f"{side} the learner's")
    assert "chronyd" in finding.remedy


@pytest.mark.parametrize(
    ("ahead", "unsure", "state"),
    [(1.01, 0.0, "warning"), (-1.01, 0.0, "warning"), (0.99, 0.0, "ok"), (1.5, 0.6, "ok"), (2.5, 0.6, "warning")],
)
def test_what_a_slow_way_may_explain_is_no_difference(ahead, unsure, state):
    assert judge(ahead, unsure).state == state


def test_the_quickest_answer_counts():
    """The first was held up for four seconds on its way; the clocks differ by five."""
    assert difference([(4.0, 100.0, 94.0), (0.5, 200.0, 195.25)]) == (5.0, 0.25)


def test_another_version_there_is_an_error_with_what_it_says(keys):
    reason = "protocol 6 there, 9 here: install the same version on both sides"
    finding, _ = found(keys, lambda _: Refused(reason=reason))
    assert (finding.state, "the same version on both sides" in finding.remedy) == ("error", True)
    assert "protocol 6 there, 9 here" in finding.text


def test_a_gateway_that_lets_in_and_says_nothing_is_told(keys, monkeypatch):
    monkeypatch.setattr(doctor_clock, "ASK_SECONDS", 0.3)
    finding, _ = found(keys, lambda _: None)
    assert (finding.state, "its gateway hangs" in finding.remedy) == ("warning", True)


@pytest.mark.parametrize(("wanted", "state"), [(True, "warning"), (False, "ok")])
def test_without_a_learner_there_is_nothing_to_compare(keys, monkeypatch, wanted, state):
    monkeypatch.setattr(doctor_clock, "ASK_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.getsockname()[1]
    finding = against_learner(LinkConfig(port=number, keys=keys), "actor-0", wanted=wanted)
    assert finding.state == state
    assert finding.text.startswith("not compared")


@pytest.mark.parametrize(("options", "name"), [({"port": 0}, "actor-0"), ({}, "actor-5")])
def test_without_a_port_or_a_key_the_line_points_to_the_one_about_that(keys, options, name):
    finding = against_learner(LinkConfig(keys=keys, **options), name, wanted=True)
    assert finding.state == "ok"
    assert "see the line about" in finding.text


def test_a_learner_of_any_other_answer_does_not_break_the_check(keys):
    finding, _ = found(keys, welcoming)
    assert finding.state == "error"
