from __future__ import annotations

import pytest

from learner.gateway.credit import PROMPT_SECONDS, Credit


@pytest.mark.parametrize(("live", "expected"), [(0, 100), (1, 100), (5, 100), (6, 100), (12, 50), (600, 1)])
def test_live_actors_share_a_third_of_the_memory_and_none_has_more_than_a_third_of_its_own(live, expected):
    credit = Credit(total_bytes=1800, peer_bytes=300)
    credit.live = live
    assert credit.bytes == expected


def test_a_journal_that_is_behind_gets_less_and_its_full_share_again_when_it_is_not():
    credit = Credit(total_bytes=1800, peer_bytes=300)
    credit.commit_seconds = PROMPT_SECONDS
    assert (credit.is_behind, credit.bytes) == (False, 100)
    credit.commit_seconds = 4 * PROMPT_SECONDS
    assert (credit.is_behind, credit.bytes) == (True, 25)
    credit.commit_seconds = 0.0
    assert credit.bytes == 100


def test_a_full_disk_grants_nothing_until_there_is_room():
    credit = Credit()
    credit.has_room = False
    assert credit.bytes == 0
    credit.has_room = True
    assert credit.bytes == 64 << 20
