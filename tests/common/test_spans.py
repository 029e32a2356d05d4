import pytest

from common.spans import size, span


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-1, "0.0s"),
        (0.04, "0.0s"),
        (0.44, "0.4s"),
        (0.96, "1s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (192, "3m12s"),
        (3600 + 300, "1h05m"),
        (86400 * 3 + 3600 * 4 + 59, "3d04h"),
    ],
)
def test_a_span_has_its_two_largest_units(seconds, words):
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (200 << 20, "200 MiB"), (3 << 50, "3072.0 TiB")],
)
def test_a_size_is_in_the_largest_unit_of_which_there_is_one(count, words):
    assert size(count) == words
