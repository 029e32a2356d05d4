from pathlib import Path

import pytest

from common.keys import new_keys


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    for name in ("learner", "actor-0"):
        new_keys(tmp_path / "keys", name)
    return tmp_path / "keys"
