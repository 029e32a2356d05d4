"""A full context: the oldest observations give way to stubs, what was sampled stays, and a share is freed at once."""

from hypothesis import given, settings
from hypothesis import strategies as st

from actor.context import Context

STUB = [-1, -2, -3]
OPENING = [1, 2, 3, 4]


def test_the_oldest_observations_give_way_until_a_share_is_free():
    context = Context(OPENING, 60, 0.5)
    for turn in range(4):
        context.sampled([10 + turn], STUB)
        assert context.show([100 + turn] * 10, 4) is None
    context.sampled([14], STUB)
    # 4 + 5 turns + 5 x 10 leave 1 token; three stubs of 3 leave at most 30 of the 60 used when 4 have given way
    assert context.show([104] * 10, 4) == len(OPENING) + 5 + 4 * 3
    assert context.ids == [*OPENING, 10, *STUB, 11, *STUB, 12, *STUB, 13, *STUB, 14, *[104] * 10]
    context.sampled([15], STUB)
    assert context.show([105] * 10, 4) is None, "there is room for some turns now"


def test_no_more_give_way_than_needed():
    context = Context(OPENING, 60, 0.25)
    for turn in range(4):
        context.sampled([10 + turn], STUB)
        context.show([100 + turn] * 10, 4)
    context.sampled([14], STUB)
    context.show([104] * 10, 4)
    assert context.ids == [*OPENING, 10, *STUB, 11, *STUB, *(12, *[102] * 10), *(13, *[103] * 10), *(14, *[104] * 10)]


def test_without_a_share_nothing_is_ever_replaced():
    context = Context(OPENING, 30, None)
    context.sampled([10], STUB)
    context.show([100] * 20, 4)
    assert (context.room, context.most_room) == (5, 5)
    context.sampled([11], STUB)
    assert context.show([101] * 4, 4) is None
    assert len(context.ids) == 30


TURN = st.tuples(st.integers(1, 6), st.integers(1, 30))


@settings(max_examples=300)
@given(st.lists(TURN, max_size=30), st.integers(40, 120), st.integers(1, 20), st.floats(0.05, 0.95))
def test_whatever_is_shown_the_context_holds_the_opening_every_turn_and_the_newest_observation(
    turns, limit, turn_tokens, share
):
    context, sampled, shown = Context(OPENING, limit, share), [], []
    for number, (count, length) in enumerate(turns):
        own, observation = [1000 + number] * count, [2000 + number] * length
        if count > context.room:
            return  # the episode ends: no room for the turn
        before = list(context.ids)
        context.sampled(own, STUB)
        if length > context.most_room:
            assert context.room + sum(max(0, len(one) - 3) for one in shown) == context.most_room
            return  # the episode ends: not even stubs make room
        fits = context.room - length >= turn_tokens
        new = context.show(observation, turn_tokens)
        sampled.append(own)
        assert len(context.ids) <= limit
        assert context.ids[-length:] == observation
        if new is None:
            assert context.ids == [*before, *own, *observation]
            shown.append(observation)
            continue
        assert not fits
        assert context.ids[new:] == observation
        replaced = _read(context.ids[:new], sampled)
        stubs = [one == STUB and was != STUB for one, was in zip(replaced, shown, strict=False)]
        kept = [one == was for one, was in zip(replaced, shown, strict=False)]
        assert all(a or b for a, b in zip(stubs, kept, strict=True))
        last = max(at for at, stub in enumerate(stubs) if stub)
        assert all(len(one) <= 3 for one in replaced[:last]), "the oldest first"
        most = min(limit - turn_tokens, int(limit * (1 - share)))
        assert len(context.ids) - 3 + len(shown[last]) > most, "no more than needed"
        assert len(context.ids) <= most or all(len(one) <= 3 for one in replaced)
        shown = [*replaced, observation]


def _read(ids, sampled):
    """The observations between turns that are known; asserts that opening and turns are all there."""
    assert ids[: len(OPENING)] == OPENING
    rest, found = ids[len(OPENING) :], []
    for own in sampled:
        begin = rest.index(own[0])
        found.append(rest[:begin])
        assert rest[begin : begin + len(own)] == own
        rest = rest[begin + len(own) :]
    assert rest == []
    return found[1:]
