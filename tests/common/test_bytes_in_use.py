"""Bytes in use grow with what is taken and shrink when it is given back, whatever stays resident."""

from __future__ import annotations

import pytest

from common import memory
from common.memory import in_use


@pytest.mark.parametrize("size", [1 << 20, 1 << 26], ids=["from the heap", "mapped"])
def test_what_is_taken_is_in_use_until_it_is_given_back(size):
    before = in_use()
    taken = bytearray(size)
    assert size <= in_use() - before < size + (1 << 19)
    del taken
    assert abs(in_use() - before) < 1 << 19


def test_without_this_c_library_it_is_what_is_resident(monkeypatch):
    monkeypatch.setattr(memory, "_mallinfo", lambda: None)
    before = in_use()
    taken = b"x" * (64 << 20)
    assert in_use() - before > 60 << 20
    assert len(taken) == 64 << 20
