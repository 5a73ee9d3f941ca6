"""``report watch=true``: real requests to a real process, of runs and a sweep that go on meanwhile; what it refuses."""

import json
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from forked import Forked, Started
from harness import SECONDS, job
from made_up_run import finished_run, metrics
from made_up_tables import finished_sweep

from dira_scale import report
from dira_scale.sweep.records import SweepFolder


class Watching:
    """A process that serves a page. ``path``: of its address, with the token."""

    def __init__(self, process: Forked | Started) -> None:
        self.process, deadline = process, time.monotonic() + SECONDS
        while not (found := re.search(r"http://\S+(?= until)", process.printed())):
            assert time.monotonic() < deadline and process.poll() is None, process.printed()
            time.sleep(0.05)
        address = urlsplit(found[0])
        assert address.hostname == "127.0.0.1" and address.port and len(address.path) > 30
        self.port, self.path = address.port, address.path

    def ask(self, path: str, method: str = "GET", host: str = "localhost") -> tuple[HTTPResponse, str]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        connection.endheaders()
        response = connection.getresponse()
        return response, response.read().decode()

    def page(self) -> str:
        response, text = self.ask(self.path)
        assert response.status == 200
        return text


@contextmanager
def watching(*words: str) -> Iterator[Watching]:
    """It ends by Ctrl-C, at once and without complaint."""
    with job([sys.executable, "-m", "dira_scale.report", *words, "watch=true"]) as process:
        yield Watching(process)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, process.printed()
        assert process.printed().endswith("report: stopped\n") and "Traceback" not in process.printed()


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished_run(tmp_path_factory.mktemp("watched"))


def log(run: Path, count: int) -> None:
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in metrics()[:count]))


def test_a_page_follows_its_run_and_is_shown_to_nobody_else(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "demo"))
    (run / "metrics.jsonl").unlink()
    (run / "status.json").write_text(json.dumps({"state": "running", "step": 0}))
    before = contents(run)
    with watching(f"run={run}") as served:
        first = served.page()
        assert "no steps yet" in first and "0 steps" in first and served.page() == first

        response, _ = served.ask(served.path, host=f"127.0.0.1:{served.port + 1}")  # as a forwarded port has it
        assert response.status == 200 and int(response.headers["Refresh"]) >= 10
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "script" not in policy and "frame-ancestors 'none'" in policy
        assert response.headers["Cache-Control"] == "no-store" and response.headers["Referrer-Policy"] == "no-referrer"
        for host in ("evil.example", "localhost.evil.example", f"evil.example:{served.port}", "0.0.0.0", ""):
            assert_refused(served.ask(served.path, host=host), 403, served)
        changed = served.path[:-1] + ("a" if served.path[-1] != "a" else "b")
        beyond = [f"{served.path}{rest}" for rest in ("/", "/../../etc/passwd", "/metrics.jsonl", "?run=/")]
        for path in ("/", changed, served.path[:-1], "/metrics.jsonl", "//etc/passwd", *beyond):
            assert_refused(served.ask(path), 403, served)
        for method in ("POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            assert_refused(served.ask(served.path, method), 501, served)
        hosts = " HTTP/1.1\r\nHost: localhost\r\nHost: evil.example"
        requests = [f"GET {served.path}{rest}\r\n\r\n" for rest in (hosts, " HTTP/1.0", "")]
        for request in (*requests, "\r\n", "\0\r\n"):
            assert b"no steps yet" not in raw(served.port, request.encode())
        listening = [each for each in psutil.Process(served.process.pid).net_connections() if each.status == "LISTEN"]
        assert {each.laddr.ip for each in listening} == {"127.0.0.1"}
        assert contents(run) == before

        log(run, 24)
        second = served.page()
        assert "no steps yet" not in second and "80 steps" in second and "Top-1" in second
        log(run, len(metrics()))
        (run / "status.json").write_text(json.dumps({"state": "done", "step": 150, "reason": ""}))
        idle = socket.create_connection(("127.0.0.1", served.port), timeout=SECONDS)  # as browsers open ahead
        assert "150 steps" in served.page() and "Done" in served.page()
        idle.close()

        whole = (run / "status.json").read_text()
        (run / "status.json").write_text("{")
        assert "status.json is damaged" in served.page()
        (run / "status.json").write_text(whole)
        assert "150 steps" in served.page()
        assert {*contents(run)} == {*before, str(run / "metrics.jsonl")}


def assert_refused(answer: tuple[HTTPResponse, str], status: int, served: Watching) -> None:
    response, text = answer
    assert response.status == status and served.path not in text and "no steps yet" not in text


def raw(port: int, request: bytes) -> bytes:
    """All that is answered to these bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(1 << 16), b""))


def test_several_runs_and_a_sweep_are_watched(finished: Path, tmp_path: Path) -> None:
    """The sweep has a run that is not done; its page is then made without writing into its folder."""
    other = Path(shutil.copytree(finished, tmp_path / "other"))
    with watching(f"run=[{finished},{other}]") as served:
        assert "<h1>2 runs</h1>" in served.page()
        log(other, 6)
        assert "20 steps" in served.page()
    sweep = tmp_path / "sweep"
    finished_sweep(sweep, moco=1, dira=1)
    records = {record: record.read_text() for record in sweep.glob("*/*/tries/*.json")}
    for record, done in records.items():
        record.write_text(json.dumps(json.loads(done) | {"exit_code": None, "ended": None}))
    planned, probe = len(SweepFolder(sweep).current), sweep / "probe" / "0123abcd" / "tries" / "000.json"
    with watching(f"folder={sweep}") as served:
        assert f"0 of {planned} runs are done" in served.page()
        for record in records.keys() - {probe}:
            record.write_text(records[record])
        before = contents(sweep)
        assert f"{planned - 1} of {planned} runs are done" in served.page() and "probe: sick" not in served.page()
        assert contents(sweep) == before
        probe.write_text(records[probe])
        assert f"{planned} of {planned} runs are done" in served.page() and "probe: sick" in served.page()
    assert {*contents(sweep)} == {*before}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run=nowhere", "watch=true"], "run=nowhere is not a run folder: config.yaml is missing"),
        (["folder=nowhere", "watch=true"], "no sweep was started there"),
        (["sweep=nowhere"], "sweep=nowhere: no sweep was started there"),
        (["folder=x", "run=y"], "leave the other out"),
        (["run={run}", "out=nowhere/page.html"], "no such folder: nowhere"),
        (["rum=x"], "did you mean 'run'?"),
        ([], "run must be given"),
        (["run=x", "watch=true", "out=y.html"], "leave one of them out"),
        (["run=x", "embeddings=y", "data.shards=z"], "run=x and embeddings=y: a page is about one of them"),
        (["embeddings=y"], "embeddings and data.shards belong together"),
        (["run=[]"], "run must be given"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_line(
    words: Sequence[str], message: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert report.main([word.format(run=finished) for word in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not [*tmp_path.iterdir()]
