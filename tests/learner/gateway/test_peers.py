from __future__ import annotations

from gateway_builders import make_hello

from common.messages import Heartbeat, Refused
from learner.gateway.peers import Peer, Peers


def connected(_routing: bytes) -> bool:
    return True


def gone(_routing: bytes) -> bool:
    return False


def test_a_second_actor_of_one_name_is_refused_for_now():
    peers = Peers(silence=6.0)
    assert isinstance(peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected), Peer)
    refused = peers.hello("actor-0", make_hello(instance="two"), b"r2", 5.0, connected)
    assert isinstance(refused, Refused)
    assert refused.temporary
    assert "another actor named actor-0 is alive (heard 5.0 s ago)" in refused.reason
    assert peers.hear("actor-0", b"r1", 5.0) is not None
    assert peers.hear("actor-0", b"r2", 5.0) is None


def test_a_restarted_actor_gets_in_at_once_when_the_old_connection_is_gone():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected)
    assert peers.hello("actor-0", make_hello(instance="two"), b"r2", 0.1, gone).routing == b"r2"
    assert peers.hear("actor-0", b"r1", 0.2) is None


def test_a_restarted_actor_gets_in_when_the_old_one_was_silent():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected)
    assert peers.hello("actor-0", make_hello(instance="two"), b"r2", 6.1, connected).routing == b"r2"


def test_an_actor_that_left_makes_room_at_once():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected)
    peer = peers.hear("actor-0", b"r1", 0.1)
    assert peer is not None
    peer.left = True
    assert peers.hello("actor-0", make_hello(instance="two"), b"r2", 0.2, connected).routing == b"r2"


def test_the_same_process_may_connect_anew():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected)
    assert peers.hello("actor-0", make_hello(instance="one"), b"r2", 0.1, connected).routing == b"r2"
    assert peers.hear("actor-0", b"r2", 0.2) is not None


def test_silence_is_told_once():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(), b"r1", 0.0, connected)
    assert peers.newly_silent(6.0) == []
    assert [peer.name for peer in peers.newly_silent(6.1)] == ["actor-0"]
    assert peers.newly_silent(6.2) == []
    assert peers.live(6.2) == []


def test_versions_that_live_actors_sample_with_or_fetch_are_in_use():
    peers = Peers(silence=6.0)
    for name, version in (("actor-0", 3), ("actor-1", 5), ("actor-2", -1), ("actor-3", None)):
        peers.hello(name, make_hello(name), name.encode(), 0.0, connected)
        if version is not None:
            peers.hear(name, name.encode(), 0.0).heartbeat = Heartbeat(
                policy_version=version, episodes=0, tokens_per_second=0.0, spooled=0
            )
    assert peers.versions_in_use(1.0) == {3, 5}
    peers.fetches("actor-2", 4, 1.0)
    peers.fetches("nobody", 9, 1.0)
    assert peers.versions_in_use(1.0) == {3, 4, 5}
    # one leaves, one falls silent, one still fetches
    peers.hear("actor-0", b"actor-0", 5.0).left = True
    peers.fetches("actor-2", 4, 8.0)
    assert peers.versions_in_use(8.0) == {4}


def test_versions_that_an_actor_reads_in_the_learners_own_folder_are_in_use():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(), b"r1", 0.0, connected)
    peers.hear("actor-0", b"r1", 0.0).heartbeat = Heartbeat(
        policy_version=5, episodes=0, tokens_per_second=0.0, spooled=0, reads=(0, 6)
    )
    assert peers.versions_in_use(1.0) == {0, 5, 6}
    assert peers.versions_in_use(7.0) == set()


def test_how_long_an_actor_was_silent_is_known_when_it_is_heard_again_on_a_new_connection_too():
    peers = Peers(silence=6.0)
    peers.hello("actor-0", make_hello(instance="one"), b"r1", 0.0, connected)
    peers.newly_silent(7.0)
    peer = peers.hear("actor-0", b"r1", 9.0)
    assert (peer.silent, peer.quiet) == (True, 9.0)
    peer = peers.hello("actor-0", make_hello(instance="one"), b"r2", 20.0, connected)
    assert (peer.silent, peer.quiet) == (True, 11.0)
    assert not peers.hello("actor-0", make_hello(instance="two"), b"r3", 40.0, gone).silent


def test_some_actor_is_live_as_long_as_the_last_heard_one_that_stays_is():
    peers = Peers(silence=6.0)
    for number, at in enumerate((0.0, 1.0, 2.0)):
        peers.hello(f"actor-{number}", make_hello(f"actor-{number}"), b"%d" % number, at, connected)
    peers.hear("actor-0", b"0", 3.0)
    assert [peer.name for peer in peers.live(7.5)] == ["actor-0", "actor-2"]
    assert [peer.name for peer in peers.newly_silent(7.5)] == ["actor-1"]
    peers.hear("actor-0", b"0", 8.0).left = True
    assert peers.any_live(8.0)
    assert not peers.any_live(8.1)
    assert [peer.name for peer in peers.newly_silent(20.0)] == ["actor-2"]
