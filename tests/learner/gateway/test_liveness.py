"""When the gateway gives a sign of life: while it takes what comes, and while nothing comes."""

import zmq
from structlog.testing import capture_logs

from common.keys import KeyList, new_keys
from learner.gateway.listing import Listing
from learner.gateway.liveness import Liveness


class Waiting:
    """A socket of which it is known whether something waits in it."""

    something = False

    def getsockopt(self, option):
        assert option == zmq.EVENTS
        return zmq.POLLIN if self.something else 0


class Recorder:
    is_heard = True

    def __init__(self):
        self.signs, self.statuses = 0, []

    def alive(self):
        self.signs += 1

    def status(self, text):
        self.statuses.append(text)


def test_a_gateway_to_which_nobody_speaks_is_alive():
    notifier = Recorder()
    liveness = Liveness(notifier, Waiting())
    for _ in range(3):
        liveness.look()
    assert notifier.signs == 3


def test_a_gateway_that_takes_what_comes_is_alive_and_one_that_leaves_it_lying_is_not():
    notifier, socket = Recorder(), Waiting()
    liveness = Liveness(notifier, socket)
    socket.something = True
    for _ in range(3):
        liveness.took()
        liveness.look()
    assert notifier.signs == 3
    for _ in range(3):
        liveness.look()
    assert notifier.signs == 3
    liveness.took()
    liveness.look()
    assert notifier.signs == 4


def test_its_status_names_the_phase_the_actors_and_what_it_waits_for():
    notifier = Recorder()
    liveness = Liveness(notifier, Waiting())
    liveness.say("train", 3, "2 groups: g000041 has 4 of 6")
    liveness.say("train", 3, "")
    assert notifier.statuses == ["train with 3 actors, waits for 2 groups: g000041 has 4 of 6", "train with 3 actors"]


def test_a_list_that_cannot_be_read_sends_nobody_away_and_is_said_once(tmp_path):
    new_keys(tmp_path, "actor-0")
    now = [0.0]
    listing = Listing(KeyList(tmp_path, clock=lambda: now[0]), guard=None)
    (tmp_path / "actors" / "actor-1.public").write_text("no key")
    now[0] = 10.0
    dismissed = []
    with capture_logs() as logged:
        assert listing.has("anybody")
        listing.dismiss_unlisted(lambda: dismissed.append("looked"))
    assert [entry["event"] for entry in logged] == ["key_list_unreadable"]
    assert dismissed == ["looked"]


def test_on_an_insecure_link_everybody_is_listed_and_nobody_dismissed():
    listing = Listing(None, guard=None)
    assert listing.has("anybody")
    listing.dismiss_unlisted(lambda: 1 / 0)
