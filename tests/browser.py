"""Headless Chromium, driven over two pipes by its DevTools protocol: no driver, no port, no package."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from needs import skip_without

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe")  # fmt: skip


def need_chromium() -> None:
    """Skip, or fail, where there is none."""
    skip_without("chromium", "" if CHROMIUM else "no Chromium in PATH: apt-get install chromium")


class Tab:
    """A tab of a browser. ``events``: what its page logged, raised or requested since ``show``."""

    def __init__(self, ask: int, answer: int) -> None:
        self._ask, self._answer, self._last, self._session = ask, os.fdopen(answer, "rb"), 0, ""
        self._buffer = b""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one DevTools command."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._ask, json.dumps(message).encode() + b"\0")
        while (result := self._read()).get("id") != self._last:
            self.events.append(result)
        assert "error" not in result, f"{method}: {result['error']}"
        return result["result"]

    def show(self, page: Path, width: int, dark: bool) -> None:
        """Load ``page`` in a window of ``width`` CSS pixels."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._answer.read1(1 << 16)
            assert part, "Chromium has ended"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


@contextmanager
def tab(profile: Path) -> Iterator[Tab]:
    """A tab of a new Chromium, which ends with the block. ``profile``: an empty folder for its files."""
    (down, ask), (answer, up) = os.pipe(), os.pipe()
    # Chromium reads its descriptor 3 and writes to 4. By way of 10 and more, as ours may have these numbers.
    command = f'exec {{down}}<&{down} {{up}}>&{up}; exec 3<&$down 4>&$up; exec "$@"'
    process = subprocess.Popen(
        ["bash", "-c", command, "-", CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=(down, up),
        stderr=subprocess.DEVNULL,
    )
    os.close(down)
    os.close(up)
    try:
        yield Tab(ask, answer)
    finally:
        os.close(ask)  # Chromium ends with it
        process.wait(30)
