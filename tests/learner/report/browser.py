"""A headless Chromium over its debugging pipe: opens a file, presses keys, evaluates, tells what went wrong in it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

VARIABLE = "LOOP_CHROMIUM"  # names the program; else one of these on the PATH
NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome", "chrome-headless-shell")
SECONDS = 60.0  # for anything
# the browser takes its commands at descriptor 3 and answers at 4
MOVED = (
    "import fcntl, os, sys; read, write = (fcntl.fcntl(int(a), fcntl.F_DUPFD, 10) for a in sys.argv[1:3]);"
    "os.dup2(read, 3); os.dup2(write, 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {"Enter": ("\r", 13), "Escape": ("", 27), "Tab": ("", 9)}


def find():
    """The program; None where there is none."""
    named = os.environ.get(VARIABLE)
    return named or next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One process, one page."""

    def __init__(self, program: str, folder: Path) -> None:
        command_end, self._commands = os.pipe()
        self._answers, answer_end = os.pipe()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={folder}", "--disable-extensions", "about:blank"]
        with (folder / "chromium.out").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MOVED, str(command_end), str(answer_end), program, *flags],
                pass_fds=(command_end, answer_end),
                stdout=output,
                stderr=output,
            )
        os.close(command_end)
        os.close(answer_end)
        self._poll = select.poll()
        self._poll.register(self._answers, select.POLLIN)
        self._buffer, self._number, self._session = b"", 0, None
        self.errors: list[str] = []  # of scripts, of the policy, of the console
        self.requests: list[str] = []
        try:
            self._attach()
        except BaseException:
            self.close()
            raise

    def _attach(self) -> None:
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for part in ("Runtime", "Log", "Page", "Network"):
            self.send(f"{part}.enable")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            os.close(self._commands)  # it ends when nobody speaks to it
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self._answers)

    def send(self, method: str, **parameters: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _next(self) -> dict:
        until = time.monotonic() + SECONDS
        while b"\0" not in self._buffer:
            ready = self._poll.poll(max(0.0, until - time.monotonic()) * 1000)
            read = os.read(self._answers, 1 << 20) if ready else b""
            assert read, "the browser ended, or says nothing"
            self._buffer += read
        line, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(line)

    def _note(self, event: dict) -> None:
        told = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(told["exceptionDetails"])[:600])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.errors.append(json.dumps(told["args"])[:600])
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                self.errors.append(told["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(told["request"]["url"])

    def open(self, file: Path, ready: str, fragment: str = "") -> None:
        self.errors.clear()
        self.requests.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=file.resolve().as_uri() + fragment)
        self.until(ready)

    def evaluate(self, expression: str) -> object:
        """Its value; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, json.dumps(answer["exceptionDetails"])[:600]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Returns when it holds."""
        until = time.monotonic() + SECONDS
        waits = f"""new Promise((done) => {{
            let tries = 0;
            const look = () => {{
                let holds = false;
                try {{ holds = Boolean({condition}); }} catch {{ /* not there yet */ }}
                if (holds || ++tries > 100) done(holds); else setTimeout(look, 20);
            }};
            look();
        }})"""
        while time.monotonic() < until:
            answer = self.send("Runtime.evaluate", expression=waits, awaitPromise=True, returnByValue=True)
            # a page that is left meanwhile takes its promises with it
            if answer["result"].get("value") is True:
                return
        raise AssertionError(f"never: {condition}; errors: {self.errors}")

    def press(self, *keys: str) -> None:
        for key in keys:
            text, code = KEYS.get(key, (key, 0))
            self.send("Input.dispatchKeyEvent", type="keyDown", key=key, text=text, windowsVirtualKeyCode=code)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def media(self, *, scheme: str = "light", kind: str = "") -> None:
        self.send(
            "Emulation.setEmulatedMedia", media=kind, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )

    def size(self, width: int, height: int) -> None:
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def picture(self, file: Path, selector: str | None = None) -> None:
        """A PNG of what is in sight, or of an element as a whole."""
        clip = {}
        if selector is not None:
            box = self.evaluate(
                f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                " return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height, scale: 1}; })()"
            )
            clip = {"clip": box, "captureBeyondViewport": True}
        taken = self.send("Page.captureScreenshot", format="png", **clip)
        file.write_bytes(base64.b64decode(taken["data"]))
