"""Which API calls explain which changes: the tables against the engine's own documentation, and made-up turns."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actor.world.explain import BESIDE, may_change, private_route, unexplained

NOTE = ["INSERT INTO notes (id) VALUES (?)", [1], False]


@pytest.mark.parametrize(
    ("call", "apps"),
    [
        (("POST", "/simple_note/notes", 200), {"simple_note", "gmail", "file_system"}),
        (("POST", "/venmo/transactions", 200), {"venmo", "gmail", "file_system", "admin"}),
        (("POST", "/phone/messages/text/123", 200), {"phone"}),
        (("POST", "/supervisor/message", 200), {"supervisor"}),
        (("GET", "/venmo/transactions", 200), set()),
        (("GET", "/venmo/transactions/7/receipt", 200), {"venmo", "file_system"}),
        (("GET", "/spotify/music_player/volume", 200), {"spotify"}),
        (("POST", "/simple_note/notes", 401), set()),
        (("POST", "/api_docs/x", 200), set()),
        (("POST", "/dbs", 200), set()),
    ],
)
def test_a_call_may_change_its_own_app_and_few_others(call, apps):
    assert may_change(*call) == apps


def test_changes_of_a_turn_are_counted_against_its_calls():
    call = ["POST", "/simple_note/notes", 200, {"simple_note": 2}]
    assert unexplained({"simple_note": [NOTE, NOTE]}, [call]) is None
    assert unexplained({}, []) is None
    assert unexplained({"simple_note": [NOTE]}, []) == (
        "1 statements changed simple_note, of which its API calls explain 0"
    )
    assert unexplained({"simple_note": [NOTE] * 3}, [call]) == (
        "3 statements changed simple_note, of which its API calls explain 2"
    )
    assert unexplained({"simple_note": [NOTE]}, [call]) is not None
    assert "amazon" in unexplained({"simple_note": [NOTE, NOTE], "amazon": [NOTE]}, [call])


def test_a_call_does_not_explain_what_it_cannot_have_done():
    told = ["GET", "/venmo/transactions", 200, {"venmo": 1}]
    assert unexplained({"venmo": [NOTE]}, [told]) == (
        "GET /venmo/transactions is said to have changed venmo, which it cannot"
    )
    aside = ["POST", "/phone/messages/text/1", 200, {"phone": 1, "venmo": 1}]
    assert "venmo, which it cannot" in unexplained({"phone": [NOTE], "venmo": [NOTE]}, [aside])


@given(
    st.dictionaries(st.sampled_from(sorted(BESIDE)), st.integers(1, 3), min_size=1),
    st.sampled_from(sorted(BESIDE)),
)
def test_no_turn_passes_with_a_statement_more_than_its_calls_told(counts, more):
    changes = {app: [NOTE] * count for app, count in counts.items()}
    calls = [["POST", f"/{app}/x", 200, {app: count}] for app, count in counts.items()]
    assert unexplained(changes, calls) is None
    changes.setdefault(more, []).append(NOTE)
    assert unexplained(changes, calls) is not None


def test_every_app_of_the_engine_is_known(worlds):
    docs = worlds.root / "episode" / "data" / "api_docs" / "standard"
    apps = {file.stem for file in docs.glob("*.json")} - {"api_docs", "admin"}
    assert apps == set(BESIDE)


def test_reading_apis_that_say_download_or_receipt_may_write(worlds):
    docs = worlds.root / "episode" / "data" / "api_docs" / "standard"
    for file in docs.glob("*.json"):
        for name, api in json.loads(file.read_text()).items():
            if api["method"] == "GET" and name.startswith("download_"):
                path = "/" + "/".join(part if part[:1] != "{" else "7" for part in api["path"].strip("/").split("/"))
                path = path if path.startswith(f"/{file.stem}/") else f"/{file.stem}{path}"
                assert "file_system" in may_change("GET", path, 200), path


@pytest.mark.parametrize("path", ["/dbs", "/dbs/save", "//dbs", "/date_time", "/seed", "/admin/balance", "/admin"])
def test_the_engines_own_routes_are_told_apart(path):
    assert private_route(path)


@pytest.mark.parametrize("path", ["/", "/venmo/transactions", "/openapi.json", "/y", "/datetime", "/administration/x"])
def test_other_routes_are_not_the_engines_own(path):
    assert not private_route(path)
