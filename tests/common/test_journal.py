"""The journal is read from its files alone, whole or not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import UsageError
from common.journal import FIRST_LOOK, Journal
from common.messages import Heartbeat, Lease, Sampling, Trajectory
from common.segments import Segments
from common.wire import encode, first_frame


def make_trajectory(name, *, label="", tokens=8):
    sampled = np.array([0] * 4 + [1] * (tokens - 4), np.uint8)
    sampling = Sampling(temperature=1.0, max_turns=3, max_turn_tokens=50, max_context_tokens=200)
    lease = Lease(
        lease_id=name,
        group_id="g1",
        member=0,
        epoch=0,
        task_id="pay_1",
        purpose="evaluate" if label else "train",
        label=label,
        minimum_version=0,
        sampling=sampling,
        time_to_live=60.0,
    )
    return Trajectory(
        trajectory_id=name,
        lease=lease,
        actor="actor-0",
        token_bytes=np.arange(tokens, dtype="<i4").tobytes(),
        sampled_bytes=sampled.tobytes(),
        log_prob_bytes=(-0.5 * sampled).astype("<f4").tobytes(),
        version_bytes=np.where(sampled, 3, -1).astype("<i4").tobytes(),
        turn_bytes=np.array([4, tokens], "<i4").tobytes(),
        reward=0.5,
        success=False,
        started_at=0.0,
        seconds=1.0,
        engine_seconds=0.5,
        world_seconds=0.5,
    )


def write(run, frames, most_bytes=1 << 20):
    segments = Segments(run / "journal", {}, most_bytes=most_bytes)
    for frame in frames:
        segments.append(frame)
    segments.close()


def names(journal):
    return [trajectory.trajectory_id for trajectory in journal.trajectories()]


def test_every_trajectory_comes_back_in_order_across_files_compressed_or_not(tmp_path):
    made = [make_trajectory(f"g{number}.0.0", tokens=8 + number) for number in range(9)]
    write(tmp_path, [encode(one, compress=number % 3 == 0) for number, one in enumerate(made)], most_bytes=1500)
    assert len(list((tmp_path / "journal").glob("*.frames"))) > 2
    for source in (tmp_path, tmp_path / "journal"):
        journal = Journal(source)
        assert list(journal.trajectories()) == made
        assert journal.damage == []


def test_a_frame_larger_than_a_first_look_is_found_whole(tmp_path):
    large = make_trajectory("large", tokens=2 * FIRST_LOOK // 13)
    small = make_trajectory("small")
    for compress in (False, True):
        write(tmp_path / str(compress), [encode(large, compress=compress), encode(small)])
        assert list(Journal(tmp_path / str(compress)).trajectories()) == [large, small]


def test_one_is_found_by_its_id_and_a_mistyped_one_is_told_the_nearest(tmp_path):
    write(tmp_path, [encode(make_trajectory(f"g00004{number}.3.0")) for number in range(3)])
    assert Journal(tmp_path).find("g000041.3.0").trajectory_id == "g000041.3.0"
    with pytest.raises(UsageError, match=r"no trajectory g000041.3.1; the nearest of 3 is g000041.3.0"):
        Journal(tmp_path).find("g000041.3.1")


@pytest.mark.parametrize("compress", [False, True])
def test_a_last_frame_that_is_being_written_is_named_and_the_rest_is_read(tmp_path, compress):
    whole, torn = encode(make_trajectory("whole")), encode(make_trajectory("torn"), compress=compress)
    for kept in (1, 3, 10, 40, len(torn) - 1):
        write(tmp_path / str(kept), [whole, torn[:kept]])
        journal = Journal(tmp_path / str(kept))
        assert names(journal) == ["whole"]
        (damage,) = journal.damage
        assert damage.endswith(f"its last frame, {kept} bytes at byte {len(whole)}, is not whole")


def test_what_is_no_frame_ends_its_file_alone(tmp_path):
    first, second = encode(make_trajectory("first")), encode(make_trajectory("second"))
    write(tmp_path, [first + b"\x07" * 100, second], most_bytes=len(first) + 100)
    journal = Journal(tmp_path)
    assert names(journal) == ["first", "second"]
    (damage,) = journal.damage
    assert f"from byte {len(first)} on it cannot be read: not a msgpack message" in damage


def test_a_whole_frame_that_is_no_trajectory_is_named_and_passed_over(tmp_path):
    beat = Heartbeat(policy_version=0, episodes=0, lease_ids=(), tokens_per_second=0.0, spooled=0)
    broken = encode(make_trajectory("broken")).replace(b"log_prob_bytes", b"log_prob_bytez")
    write(tmp_path, [encode(beat), broken, encode(make_trajectory("whole"))])
    journal = Journal(tmp_path)
    assert names(journal) == ["whole"]
    assert "the frame at byte 0 is no trajectory" in journal.damage[0]
    assert "log_prob_bytes: Field required" in journal.damage[1]


def test_only_what_is_wanted_is_validated(tmp_path):
    broken = encode(make_trajectory("broken")).replace(b"log_prob_bytes", b"log_prob_bytez")
    write(tmp_path, [broken, encode(make_trajectory("after", label="after.t0"))])
    journal = Journal(tmp_path)
    found = list(journal.trajectories(lambda fields: fields["lease"]["label"] == "after.t0"))
    assert [trajectory.trajectory_id for trajectory in found] == ["after"]
    assert journal.damage == []


def test_a_folder_without_a_journal_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no journal there"):
        Journal(tmp_path)


def test_the_first_frame_of_many_ends_where_the_next_begins():
    frame = encode(make_trajectory("one"))
    assert first_frame(frame * 3) == len(frame)
    assert first_frame(encode(make_trajectory("one"), compress=True) + frame) == len(
        encode(make_trajectory("one"), compress=True)
    )
    assert first_frame(b"") is None
    with pytest.raises(ValueError, match="states 268435456 bytes"):
        first_frame(b"\x28\xb5\x2f\xfd\xa0" + (1 << 28).to_bytes(4, "little") + b"\0" * 20)


@given(st.lists(st.tuples(st.integers(5, 60), st.booleans()), max_size=5), st.integers(0, 400))
def test_of_frames_cut_anywhere_those_before_the_cut_are_found(sizes, cut):
    frames = [encode(make_trajectory("one", tokens=tokens), compress=compress) for tokens, compress in sizes]
    rest, found = b"".join(frames)[: -cut or None], []
    whole = [number for number in range(len(frames)) if len(b"".join(frames[: number + 1])) <= len(rest)]
    while rest and (length := first_frame(rest)) is not None:
        found.append(rest[:length])
        rest = rest[length:]
    assert found == [frames[number] for number in whole]


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x28\xb5\x2f\xfd", b"\x81", b"\xdf"]))
def test_any_bytes_are_a_frame_or_its_beginning_or_refused(data, head):
    try:
        length = first_frame(head + data)
    except ValueError:
        return
    assert length is None or 0 < length <= len(head + data)
