"""What tests share: AppWorld's virtualenv and a small world, both made once into the real cache."""

import logging
import signal

import pytest
import structlog
from hypothesis import settings

from actor.world import install
from actor.world.build import BuildArguments, build

# how long an example takes is the machine's business, and others work on it too
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

# a shell's background jobs ignore Ctrl-C, and so would every process that a test starts there
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def appworld_python():
    """The python of AppWorld's virtualenv."""
    return install.appworld_python()


@pytest.fixture(scope="session")
def world_root(appworld_python):
    """A data root with few tasks of every scenario, all of them verified when it was built."""
    return build(BuildArguments(train=4, dev=1, test=1, unseen=1, challenge=1))


@pytest.fixture(autouse=True)
def logs_of_one_test_alone():
    """A test that sets up a process's logs leaves none of it, such as a captured stream, to the next."""
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    logging.captureWarnings(capture=False)
