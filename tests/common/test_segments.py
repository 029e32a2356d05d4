from __future__ import annotations

import pytest

from common.errors import RunError
from common.segments import Place, Segments, read_frame


def settled(segments, *frames):
    """The frames' places, once an index would have named them."""
    places = [segments.append(frame) for frame in frames]
    segments.sync()
    segments.settle()
    return places


def ends_of(places):
    return {number: max(p.end for p in places if p.segment == number) for number in {p.segment for p in places}}


def test_frames_come_back_from_where_they_were_put_across_files(tmp_path):
    segments = Segments(tmp_path, {}, most_bytes=10)
    frames = [b"a" * 6, b"b" * 4, b"c" * 25, b"d"]
    places = settled(segments, *frames)
    assert [(place.segment, place.offset) for place in places] == [(1, 0), (1, 6), (2, 0), (3, 0)]
    assert [segments.read(place) for place in places] == frames
    again = Segments(tmp_path, ends_of(places), most_bytes=10)
    assert settled(again, b"e") == [Place(3, 1, 1)]
    assert [read_frame(tmp_path, place) for place in places] == frames


def test_what_no_index_named_is_cut_off_by_the_next_start(tmp_path):
    segments = Segments(tmp_path, {}, most_bytes=10)
    places = settled(segments, b"whole")
    segments.append(b"torn")
    segments.append(b"in a file of its own")
    again = Segments(tmp_path, ends_of(places), most_bytes=10)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["000001.frames"]
    assert (tmp_path / "000001.frames").read_bytes() == b"whole"
    assert settled(again, b"next") == [Place(1, 5, 4)]


def test_what_is_taken_back_leaves_no_byte_and_no_file(tmp_path):
    segments = Segments(tmp_path, {}, most_bytes=10)
    settled(segments, b"whole")
    for frame in (b"1234", b"56789012", b"34567890"):
        segments.append(frame)
    segments.cut()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"]
    place = settled(segments, b"next")[0]
    assert segments.read(place) == b"next"


def test_a_file_that_lost_frames_is_named_and_not_written_to(tmp_path):
    segments = Segments(tmp_path, {})
    first, second = settled(segments, b"first", b"second")
    (tmp_path / "000001.frames").write_bytes(b"firstse")
    again = Segments(tmp_path, ends_of([first, second]))
    assert again.damaged == [f"{tmp_path}/000001.frames: 7 bytes, but its frames end at byte 11"]
    assert again.read(first) == b"first"
    with pytest.raises(RunError, match="ends within the frame of 6 bytes at 5"):
        again.read(second)
    assert settled(again, b"third") == [Place(2, 0, 5)]
    (tmp_path / "000001.frames").unlink()
    with pytest.raises(RunError, match=r"000001\.frames: cannot be read: No such file"):
        again.read(first)
