"""The fence around files, tried in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

TRY = """
import os, sys
from pathlib import Path
from actor.world.landlock import restrict
folder = Path(sys.argv[1])
if not restrict([folder / "data", folder / "one.txt", folder / "missing"], [Path("/dev/null")], folder / "scratch"):
    print("no fence here")
    sys.exit()
print((folder / "data" / "a.txt").read_text(), (folder / "one.txt").read_text(), os.listdir(folder / "data"))
Path("/dev/null").write_text("x")
(folder / "scratch" / "new").write_text("x")
pid = os.fork()
if pid:
    sys.exit(os.waitpid(pid, 0)[1])
for attempt in (
    lambda: (folder / "secret.txt").read_text(),
    lambda: os.listdir(folder),
    lambda: (folder / "data" / "a.txt").write_text("x"),
    lambda: (folder / "data" / "b.txt").touch(),
    lambda: os.rename(folder / "data" / "a.txt", folder / "scratch" / "a.txt"),
    lambda: Path("/etc/hostname").read_text(),
):
    try:
        attempt()
        print("did it")
    except OSError as error:
        print(type(error).__name__)
"""


def test_only_what_is_listed_is_read_and_only_scratch_is_written(tmp_path):
    for name in ("data", "scratch"):
        (tmp_path / name).mkdir()
    for name in ("data/a.txt", "one.txt", "secret.txt"):
        (tmp_path / name).write_text(name)
    top = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", TRY, tmp_path], capture_output=True, text=True, check=False, cwd=top, timeout=60
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    if first == "no fence here":
        pytest.skip("this kernel has no landlock")
    assert first == "data/a.txt one.txt ['a.txt']"
    assert rest == ["PermissionError"] * 6
