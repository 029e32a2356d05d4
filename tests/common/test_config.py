import subprocess
import sys

import pytest
from pydantic import Field

from common.config import LinkConfig, RunConfig, Section, dump, load
from common.errors import UsageError


class Inner(Section):
    rate: float = Field(default=0.1, description="steps, per second", examples=[0.1])


class Outer(Section):
    inner: Inner = Field(default_factory=Inner, description="nested")
    count: int = Field(default=3, description="things, count", examples=[3])


SECTIONS = {"run": RunConfig, "link": LinkConfig, "learner": Outer}


def write(tmp_path, text):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def test_overrides_win_over_the_file_and_the_file_over_defaults(tmp_path):
    file = write(tmp_path, "run: {seed: 5}\nlearner: {inner: {rate: 2.5e-1}, count: 4}\n")
    loaded = load(SECTIONS, file, ["--learner.inner.rate", "5e-5", "--link.port=81"])
    assert loaded["run"].seed == 5
    assert loaded["learner"].inner.rate == 5e-5
    assert loaded["learner"].count == 4
    assert loaded["link"].port == 81
    assert loaded["link"].files_port == 7778


def test_what_dump_writes_load_reads_back_equal(tmp_path):
    first = load(SECTIONS, None, ["--run.folder", "a/b", "--learner.count", "7"])
    again = load(SECTIONS, write(tmp_path, dump(first)), [])
    assert again == first


def test_the_other_sides_sections_are_passed_over(tmp_path):
    file = write(tmp_path, "actor: {anything: 1}\nrun: {seed: 2}\n")
    assert load({"run": RunConfig}, file, [])["run"].seed == 2


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("run: {sed: 3}", [], "unknown key 'run.sed'; did you mean 'seed'?"),
        ("learner: {inner: {rat: 3}}", [], "unknown key 'learner.inner.rat'; did you mean 'rate'?"),
        ("rnu: {seed: 3}", [], "unknown section 'rnu'; did you mean 'run'?"),
        ("", ["--run.sed", "3"], "unknown option '--run.sed'; did you mean '--run.seed'?"),
        ("", ["--run.seed"], "--run.seed: expected one argument"),
        ("", ["--run.seed", "many"], "run.seed: Input should be a valid integer"),
        ("", ["--run.seed", "-4"], "run.seed"),
        ("", ["stray"], "unknown option 'stray'"),
        ("run: [1]", [], "sections of keys"),
        ("run: {seed: 'x'}", [], "run.seed: Input should be a valid integer"),
        ("run: {seed: 1", [], "not YAML"),
    ],
)
def test_bad_configuration_is_one_line_that_names_the_place(tmp_path, text, words, expected):
    file = write(tmp_path, text) if text else None
    with pytest.raises(UsageError) as caught:
        load(SECTIONS, file, words)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml: No such file"):
        load(SECTIONS, tmp_path / "none.yaml", [])


def test_an_unknown_command_exits_2_and_names_the_known_ones():
    done = subprocess.run([sys.executable, "-m", "common.cli", "dmo"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown command 'dmo'" in done.stderr
    assert "demo" in done.stderr
