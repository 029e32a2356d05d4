"""The report opened in headless Chromium: its sections, filters, keys, comparison, colours, light and dark, paper."""

import random
import re
import time

import pytest
from run_building import make_run

from learner.report.cli import main

READY = "document.documentElement.dataset.ready === 'yes'"
ROWS = "document.querySelectorAll('#rows .row').length"
MATCHES = "document.getElementById('matches').textContent"
PANES = "document.querySelectorAll('.pane').length"
TITLE = "document.querySelector('.pane h3')?.textContent"


@pytest.fixture(scope="module")
def page(chromium, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    evil = "print('</script><script>document.title = \"taken\"</script><img src=x onerror=alert(1)>')"
    run = make_run(folder / "small", turns=[("for x in [1]:\n    print(x, 'a')  # " + evil, evil), ("done", None)])
    assert main([str(run)]) == 0
    chromium.size(1300, 900)
    return run / "report.html"


@pytest.fixture
def opened(chromium, page):
    chromium.media()
    chromium.open(page, READY)
    chromium.evaluate("localStorage.clear()")
    yield chromium
    assert chromium.errors == []
    assert [url for url in chromium.requests if not url.startswith(("file:", "about:"))] == []


def choose(chromium, select, value):
    chromium.evaluate(
        f"(() => {{ const s = document.getElementById('{select}'); s.value = {value!r};"
        " s.dispatchEvent(new Event('change')); })()"
    )


def test_every_section_has_its_marks(opened):
    marks = opened.evaluate(
        "Object.fromEntries([...document.querySelectorAll('main > section')].map((s) => [s.id, {"
        " charts: s.querySelectorAll('svg.chart').length, lines: s.querySelectorAll('.line').length,"
        " bands: s.querySelectorAll('.band').length, dots: s.querySelectorAll('.dot').length,"
        " whiskers: s.querySelectorAll('.whisker').length, bars: s.querySelectorAll('.bar').length,"
        " rows: s.querySelectorAll('tbody tr').length}]))"
    )
    assert list(marks) == [
        "overview", "learning", "tasks", "staleness", "throughput", "books", "behaviour", "trajectories",
        "configuration",
    ]  # fmt: skip
    assert (marks["learning"]["lines"], marks["learning"]["bands"], marks["learning"]["whiskers"]) == (2, 2, 2)
    assert marks["tasks"]["charts"] == 3  # by scenario, by difficulty, of training
    assert marks["tasks"]["dots"] == 2 + 2 + 2  # and as many rings
    assert marks["staleness"]["bars"] == 8  # 4 steps of 2 lags
    assert marks["staleness"]["lines"] == 7
    assert marks["throughput"]["bars"] >= 2 + 4 * 3
    assert marks["books"]["bars"] == 3
    assert marks["behaviour"]["rows"] >= 14


def test_what_a_policy_wrote_is_text_and_nothing_of_it_runs(opened):
    choose(opened, "by-set", "train")
    opened.until(f"{MATCHES}.startsWith('36 of 52')")
    opened.until("document.querySelector('.pane .comment') !== null")
    text = opened.evaluate("document.querySelector('.pane .sampled').textContent")
    assert "</script><script>document.title" in text
    assert opened.evaluate("document.title") == "small · loop report"
    assert opened.evaluate("document.querySelectorAll('#panes img, #panes script').length") == 0
    assert opened.evaluate("document.querySelectorAll('#panes .word-of-python').length") >= 2  # for, in
    comments = "[...document.querySelectorAll('#panes .comment')].map((part) => part.textContent).join('')"
    assert opened.evaluate(comments).startswith("# print('</script><script>document.title")


def test_a_filter_an_order_and_a_search_choose_what_is_listed(opened):
    opened.until(f"{MATCHES}.startsWith('52 of 52')")
    choose(opened, "by-set", "train")
    choose(opened, "by-outcome", "success")
    opened.until(f"{MATCHES}.includes(' of 52 trajectories, 100.0 %')")
    choose(opened, "by-outcome", "")
    choose(opened, "by-state", "dropped: no_signal")
    opened.until(f"{MATCHES}.startsWith('12 of 52')")
    opened.evaluate("document.getElementById('clear').click()")
    opened.until(f"{MATCHES}.startsWith('52 of 52')")
    choose(opened, "order", "reward")
    opened.until("document.querySelector('#rows .row .reward').textContent === '0.25'")
    opened.press("/")
    opened.type("paYfile g0003")
    opened.until(f"/^[1-9] of 52/.test({MATCHES})")
    assert opened.evaluate(TITLE).startswith("g0003")
    opened.evaluate("document.getElementById('search').select()")
    opened.type("text:silver RIVER")
    opened.press("Enter")
    opened.until(f"{MATCHES}.startsWith('52 of 52')")
    opened.evaluate("document.getElementById('search').select()")
    opened.type("text:no such words")
    opened.press("Enter")
    opened.until(f"{MATCHES}.startsWith('0 of 52')")
    opened.until("document.querySelector('#panes .missing') !== null")
    opened.press("Escape")
    assert opened.evaluate("document.activeElement.id") != "search"


def test_everything_goes_by_keyboard(opened):
    first = opened.evaluate(TITLE)
    opened.press("j")
    opened.until(f"{TITLE} !== {first!r}")
    assert opened.evaluate("document.querySelector('.row[aria-selected=true]').getAttribute('aria-posinset')") == "2"
    opened.press("k")
    opened.until(f"{TITLE} === {first!r}")
    opened.press("?")
    assert opened.evaluate("document.getElementById('help').open") is True
    opened.press("Escape")
    opened.until("!document.getElementById('help').open")
    opened.press("v")
    opened.until("document.getElementById('colour').value === 'version'")
    opened.until("document.querySelectorAll('.pane .token.version4').length > 0")
    opened.evaluate("document.getElementById('list').focus()")
    opened.press("Tab")
    style = "getComputedStyle(document.activeElement)"
    assert opened.evaluate("document.activeElement.id") == "colour"
    assert opened.evaluate(f"[{style}.outlineStyle, {style}.outlineWidth]") == ["solid", "3px"]
    unnamed = "[...document.querySelectorAll('button, input, select')].filter((e) => !e.textContent.trim() && "
    assert opened.evaluate(f"{unnamed} !e.getAttribute('aria-label') && !e.labels?.length).length") == 0


def test_two_rollouts_of_a_group_stand_side_by_side(opened):
    choose(opened, "by-set", "train")
    opened.until(f"{MATCHES}.startsWith('36 of')")
    opened.press("c")
    opened.until(f"{PANES} === 2")
    ids = opened.evaluate("[...document.querySelectorAll('.pane h3')].map((h) => h.textContent)")
    rewards = opened.evaluate(
        "[...document.querySelectorAll('.pane .facts dd:first-of-type')].map((d) => d.textContent)"
    )
    assert ids[0].rpartition(".")[0][:-2] == ids[1].rpartition(".")[0][:-2]
    assert ids[0] != ids[1]
    assert rewards[0] != rewards[1]  # the one beside it is first one that fared otherwise
    opened.press("c")
    opened.until(f"document.querySelectorAll('.pane h3')[1]?.textContent !== {ids[1]!r} && {PANES} === 2")
    opened.press("c")
    opened.until(f"{PANES} === 1")
    chip = "document.querySelector('.chip:not([aria-current])')"
    opened.evaluate(f"{chip}.click()")
    opened.until(f"{TITLE} !== {ids[0]!r}")


def test_failed_tests_are_listed_and_tokens_tell_what_is_recorded(opened):
    opened.press("/")
    opened.type("g00021.2.0")
    opened.until(f"{TITLE} === 'g00021.2.0'")
    failed = opened.evaluate("[...document.querySelectorAll('.failed li')].map((l) => l.textContent)")
    assert failed == ["assert answer matches", "assert step 2 <b>is done</b>"]
    tip = opened.evaluate("document.querySelector('.pane .token').dataset.tip")
    assert re.search(r"behaviour log-prob -\d\.\d+ \(p 0\.\d+\)\npolicy version 0$", tip)
    assert opened.evaluate("[...document.querySelectorAll('.sampled')].map((p) => p.textContent).length") == 2
    choose(opened, "colour", "ratio")
    opened.until("document.getElementById('key').textContent.includes('--recompute')")


def test_a_trajectory_has_an_address(chromium, page):
    chromium.open(page, READY, "#trajectory=g00032.1.0")
    chromium.until(f"{TITLE} === 'g00032.1.0'")
    assert chromium.errors == []


def test_it_is_dark_where_the_system_is_and_by_its_switch(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = opened.evaluate(ground)
    opened.media(scheme="dark")
    dark = opened.evaluate(ground)
    assert dark != light
    opened.press("t")
    assert opened.evaluate(f"[document.documentElement.dataset.theme, {ground}]") == ["light", light]
    opened.media(scheme="light")
    opened.press("t")
    assert opened.evaluate(f"[document.documentElement.dataset.theme, {ground}]") == ["dark", dark]


def test_paper_has_the_figures_and_no_buttons(opened):
    opened.media(kind="print")
    shown = "(id) => getComputedStyle(document.querySelector(id)).display"
    assert opened.evaluate(f"['.filters', '.list', '.tools'].map({shown})") == ["none"] * 3
    assert opened.evaluate(f"['.chart', '.pane'].map({shown})") == ["block"] * 2
    opened.send("Page.printToPDF")
    assert opened.evaluate("document.querySelectorAll('details[data-printed]').length") == 0


@pytest.mark.slow
def test_ten_thousand_trajectories_open(chromium, tmp_path, capsys):
    def turns(name):
        """Two of some 150 characters that no other trajectory has, each with as much to see."""
        draw = random.Random(name)
        text = [" ".join(f"{draw.randrange(1 << 20):x}" for _ in range(25)) for _ in range(4)]
        return list(zip((f"x = '{said}'" for said in text[:2]), text[2:], strict=True))

    run = make_run(tmp_path / "large", steps=100, groups=15, members=6, turns=turns)
    began = time.monotonic()
    assert main([str(run)]) == 0
    made = time.monotonic() - began
    began = time.monotonic()
    chromium.open(run / "report.html", READY)
    opened = time.monotonic() - began
    told = capsys.readouterr().out
    assert "9,616 of 9,616 trajectories to read" in told
    chromium.until(f"{MATCHES}.startsWith('9,616 of 9,616')")
    assert chromium.evaluate(ROWS) < 60
    chromium.evaluate("document.getElementById('list').focus()")
    chromium.press("End")
    chromium.until("document.querySelector('.row[aria-selected=true]')?.getAttribute('aria-posinset') === '9616'")
    began = time.monotonic()
    chromium.press("/")
    chromium.type("text:silver")
    chromium.press("Enter")
    chromium.until(f"{MATCHES}.startsWith('9,616 of 9,616')")
    searched = time.monotonic() - began
    assert chromium.errors == []
    with capsys.disabled():
        print(
            f"\n{told.strip()}; made in {made:.1f} s, opened in {opened:.1f} s, all text searched in {searched:.1f} s"
        )
