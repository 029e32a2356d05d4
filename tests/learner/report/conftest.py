"""A headless browser for the report's page, started once; tests of it are skipped where there is none."""

import browser as browser_
import pytest


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    program = browser_.find()
    if program is None:
        names = ", ".join(browser_.NAMES)
        pytest.skip(f"no Chromium: {browser_.VARIABLE} names none, and none of {names} is on the PATH")
    made = browser_.Browser(program, tmp_path_factory.mktemp("chromium"))
    yield made
    made.close()
