"""A worker among scripted parts."""

import pytest
from scene import put_in_place


@pytest.fixture
def scene(monkeypatch, tmp_path):
    return put_in_place(monkeypatch, tmp_path)
