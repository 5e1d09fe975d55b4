"""A Chromium that opens this machine's pages alone, driven over its pipe (Chrome DevTools Protocol)."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from hack.dev.ports import HOST

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OFFLINE = (
    "--headless",
    "--no-sandbox",  # root has no other way; the only pages that it opens are ours
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE {HOST}",
)
_ANSWER_SECONDS = 60.0


def find_browser() -> str:
    """The program; skips the test where there is none."""
    found = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if found is None:
        pytest.skip("no Chromium here (hack/ci/debian-packages installs it)")
    return found


class RefusedError(Exception):
    """The browser did not do what it was told to."""


class Browser:
    """One tab. `said` holds what its console was told and what it refused to do."""

    def __init__(self, folder: Path, *, has_scripts: bool = True) -> None:
        self._folder = folder
        self._has_scripts = has_scripts
        self._session: str | None = None
        self._last_id = 0
        self._unread = b""
        self.said: list[str] = []

    def __enter__(self) -> Browser:
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        # It reads from 3 and writes to 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        options = (*OFFLINE, "--remote-debugging-pipe", f"--user-data-dir={self._folder / 'profile'}")
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", find_browser(), *options],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        if not self._has_scripts:
            self.call("Emulation.setScriptExecutionDisabled", value=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol and its result. Raises RefusedError."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._last_id:
                if "error" in answer:
                    raise RefusedError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, url: str) -> None:
        """Goes to a page and waits until it is there."""
        self.call("Page.navigate", url=url)
        self.await_true("document.readyState === 'complete' && location.href !== 'about:blank'")

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression. Raises RefusedError with what it threw."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RefusedError(f"{expression}: {found['result'].get('description')}")
        return found["result"].get("value")

    def await_true(self, expression: str, *, timeout_seconds: float = 30.0) -> None:
        """Waits for a JavaScript expression to hold."""
        end = time.monotonic() + timeout_seconds
        while True:
            with contextlib.suppress(RefusedError):  # one page was being left, or the other is not there yet
                if self.ask(expression) is True:
                    return
            assert time.monotonic() < end, (
                f"{expression} does not hold: {self.ask('document.body.innerText')}"
            )
            time.sleep(0.05)

    def write(self, selector: str, text: str) -> None:
        """Types into a field, in the place of what is there."""
        self.ask(f"document.querySelector({json.dumps(selector)}).select()")
        self.call("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Presses a key that writes nothing, but for Enter, on what has the focus."""
        text = {"text": "\r"} if key == "Enter" else {}
        code = {"windowsVirtualKeyCode": {"Enter": 13, "Tab": 9}[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, code=key, **text, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, **code)

    def set_width(self, pixels: int) -> None:
        """Makes the window as wide as a phone, for instance."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=pixels, height=640, deviceScaleFactor=2, mobile=True
        )

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._read], [], [], _ANSWER_SECONDS)[0], "the browser does not answer"
            more = os.read(self._read, 1 << 16)
            assert more, "the browser has ended"
            self._unread += more
        raw, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            if entry["level"] in ("warning", "error"):  # else it is advice
                self.said.append(entry["text"])
        elif message.get("method") in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.said.append(json.dumps(message["params"]))
        return message
