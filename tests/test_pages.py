"""The HTML pages in a real browser, at the widths of a phone, a tablet and a desktop; the last light and dark."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from made_up_run import finished_run, metrics
from made_up_tables import finished_sweep
from needs import skip_without
from report.test_neighbours import embed

from dira_scale import report
from dira_scale.shard import main as shard

FINDINGS = Path(__file__).with_name("pages.js").read_text()
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--hide-scrollbars", "--remote-debugging-pipe")  # fmt: skip


class Tab:
    """A tab of headless Chromium, driven over two pipes by its DevTools protocol: no driver, no port, no package.
    ``events``: what its page logged, raised or requested since ``show``."""

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


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run with health monitors and warnings that failed, the same beside another, a dataset with everything that can
    be odd, its images with their neighbours, and a sweep."""
    folder = tmp_path_factory.mktemp("pages")
    run, rows = finished_run(folder), metrics()
    for i, item in enumerate(r for r in rows if r["split"] == "train"):
        item |= {f"health/{name}": 0.5 + i for name in ("std", "rank", "features_rank", "gradient/di", "gradient/re")}
    rows[-1] |= {"health/std": 0.01, "health/rank": 1.0, "warnings": ["collapse: " + "a_long_word" * 9, "L_di <L_re>"]}
    rows[-2] |= {"health/knn_auc": 0.6}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    failed = {"state": "failed", "step": 150, "reason": "loss/re is not finite: " + "nan/step-000000010/" * 9}
    (run / "status.json").write_text(json.dumps(failed))
    assert report.main([f"run={run}"]) == 0
    other = shutil.copytree(run, folder / "another_run_with_a_long_name")
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()[:9]))
    assert report.main([f"run=[{run},{other}]", f"out={folder / 'several.html'}"]) == 0
    finished_sweep(folder / "sweep")
    assert report.main([f"folder={folder / 'sweep'}"]) == 0
    shown = {"report": run / "report.html", "stats": _stats(folder), "sweep": folder / "sweep" / "report.html"}
    embed(folder / "features", folder / "ds", np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32))
    assert report.main([f"embeddings={folder / 'features'}", f"data.shards={folder / 'ds'}"]) == 0
    return shown | {"several": folder / "several.html", "neighbours": folder / "features.neighbours.html"}


def _stats(folder: Path) -> Path:
    """Copies, masks among the images, unknown labels, and a file that is not an image."""
    (folder / "images").mkdir()
    lines = ["file,patient,split,Enlarged_Cardiomediastinum,b,grade"]
    for number in range(8):
        noise = np.random.default_rng(number // 2).integers(0, 255 if number % 4 else 3, (64, 48)).astype(np.uint8)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), noise)
        lines.append(f"{number}.png,{number},{('train', 'val', 'test')[number % 3]},0,,{number % 3}")
    (folder / "images" / "8.png").write_bytes(b"")
    (folder / "t.csv").write_text("\n".join([*lines, "8.png,8,test,1,,1"]))
    words = ["recipe=folder", f"recipe.images={folder / 'images'}", f"recipe.labels={folder / 't.csv'}",
             "recipe.columns.split=split", "recipe.label_columns=[Enlarged_Cardiomediastinum, b, grade]"]  # fmt: skip
    assert shard([*words, f"out={folder / 'ds'}", "workers=1"]) == 0
    assert shard(["stats", f"path={folder / 'ds'}"]) == 0
    return folder / "ds.stats.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    skip_without("chromium", "" if CHROMIUM else "no Chromium in PATH: apt-get install chromium")
    with tab(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.parametrize(("width", "dark"), [(390, False), (768, False), (1440, False), (1440, True)])
@pytest.mark.parametrize("name", ["report", "stats", "sweep", "several", "neighbours"])
def test_a_page_is_good_to_read(browser: Tab, pages: dict[str, Path], name: str, width: int, dark: bool) -> None:
    browser.show(pages[name], width, dark)
    result = browser.run(FINDINGS)
    assert result["texts"] > 50  # it was looked at
    assert result["width"] <= width
    assert result["cut"] == [] and result["overlapping"] == [] and result["faint"] == [] and result["unnamed"] == []
    assert result["brightness"] < 0.05 if dark else result["brightness"] > 0.9
    assert complaints(browser) == []


@pytest.mark.parametrize("name", ["report", "stats"])
def test_a_click_shows_a_picture_larger_and_another_closes_it(browser: Tab, pages: dict[str, Path], name: str) -> None:
    browser.show(pages[name], 1440, dark=False)
    shown = "document.querySelector('.larger img').getBoundingClientRect().width"
    small = browser.run(shown)
    browser.run("document.querySelector('.larger a').click()")
    assert browser.run(shown) > 1.5 * small
    browser.run("document.elementFromPoint(innerWidth / 2, 300).click()")
    assert browser.run(shown) == small
    assert complaints(browser) == []


def complaints(browser: Tab) -> list[Any]:
    """Errors, logged lines, and requests other than for the page itself and what it contains."""
    printed = [event for event in browser.events if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded",
                                                                     "Runtime.consoleAPICalled")]  # fmt: skip
    requested = [event["params"]["request"]["url"] for event in browser.events
             if event["method"] == "Network.requestWillBeSent"]  # fmt: skip
    assert requested  # the page itself
    return printed + [url for url in requested[1:] if not url.startswith("data:")]


def test_the_findings_find(browser: Tab, tmp_path: Path) -> None:
    """A page with one of each fault."""
    faults = """<body style="background: #fff; margin: 0"><img src="http://127.0.0.1:9/x.png">
        <p id="cut" style="width: 40px; overflow: hidden; white-space: nowrap">a text that is cut off</p>
        <p id="wide" style="width: 900px">w</p>
        <p id="faint" style="color: #999">grey on white</p>
        <p id="below">one</p><p style="margin-top: -3em">above another</p>
        <script>console.error("error"); throw Error("exception")</script>"""
    (tmp_path / "faults.html").write_text(faults)
    browser.show(tmp_path / "faults.html", 390, dark=False)
    result = browser.run(FINDINGS)
    assert result["width"] == 900
    assert any("a text that is cut off" in text for text in result["cut"])
    assert any("grey on white" in text for text in result["faint"])
    assert any("one / above another" in text for text in result["overlapping"])
    assert len(result["unnamed"]) == 3  # lang, title, alt
    kinds = {event["method"] for event in complaints(browser) if isinstance(event, dict)}
    assert {"Runtime.exceptionThrown", "Runtime.consoleAPICalled"} <= kinds
    assert "http://127.0.0.1:9/x.png" in complaints(browser)
