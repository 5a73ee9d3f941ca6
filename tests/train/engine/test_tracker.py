"""Rows of metrics.jsonl as the real trackers read them back, offline; what is sent once, what a failure leaves."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from needs import need_extra

from dira_scale.base import errors
from dira_scale.base.errors import UserError
from dira_scale.train.distributed.timings import TIMINGS
from dira_scale.train.engine import tracker as trackers
from dira_scale.train.engine.tracker import Tracker, require_tracker
from dira_scale.train.runs.exit_codes import TRY
from dira_scale.train.runs.folder import RunFolder

CONFIG = {"seed": 3, "data": {"batch": 8, "shards": ["/data/of/a", "b"]}, "steps": None}
ROWS = [
    {"step": 2, "split": "val", "loss": 3.0, "stage": "di"},
    {"step": 2, "split": "train", "loss": 4.0, "loss/di": 4.0, "stage": "di", "warnings": ["none"]},
    {"step": 4, "split": "train", "loss": 2.0, "loss/di": 2.0, "stage": "di"},
]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RunFolder]:
    """A run of a sweep, with the variables with which it is started."""
    from accelerate import PartialState
    from tensorboard.summary.writer import event_file_writer

    PartialState(cpu=True)
    # Files of one second are read in the order of these numbers as text, and a process counts on: 10 is before 9.
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
    monkeypatch.setenv(TRY, "pretrain/moco/001")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    folder = RunFolder(tmp_path / "sizes" / "pretrain" / "moco" / "output", CONFIG)
    yield folder
    folder.release()
    PartialState._reset_state()


def sent(name: str, run: RunFolder, rows: list[dict[str, Any]], step: int = 0) -> None:
    """As a process that goes on from ``step`` and writes ``rows``."""
    run.drop_rows_after(step)
    tracker = Tracker(name, run, step)
    for row in rows:
        run.metrics(row)
        tracker.wake()
    tracker.close()


def in_tensorboard(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard")).Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata
    return {key: [(e.step, e.value) for e in events.Scalars(key)] for key in events.Tags()["scalars"]}


def in_wandb(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    import json

    from wandb.proto.wandb_internal_pb2 import Record
    from wandb.sdk.internal.datastore import DataStore

    values: dict[str, list[tuple[int, float]]] = {}
    identities = set()
    for file in sorted((run.folder / "wandb").glob("offline-run-*/*.wandb")):
        store = DataStore()
        store.open_for_scan(str(file))
        while (data := store.scan_data()) is not None:
            record = Record()
            record.ParseFromString(data)
            if record.HasField("run"):
                identities.add((record.run.run_id, record.run.run_group, record.run.display_name, record.run.project))
            if record.HasField("history"):
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                for key, value in items.items():
                    if not key.startswith("_"):
                        values.setdefault(key, []).append((record.history.step.num, value))
    assert len(identities) == 1 and next(iter(identities))[1:] == ("sizes", "pretrain/moco", "dira_scale")
    return values


def in_mlflow(run: RunFolder) -> dict[str, list[tuple[int, float]]]:
    from mlflow import MlflowClient

    client = MlflowClient()
    (experiment,) = client.search_experiments(filter_string="name = 'sizes'")
    (recorded,) = client.search_runs([experiment.experiment_id])
    assert recorded.data.params == {"seed": "3", "data.batch": "8", "data.shards": "[a, b]", "steps": "null"}
    assert recorded.data.tags["sweep"] == "sizes" and recorded.info.run_name == "pretrain/moco"
    identifier = recorded.info.run_id
    history = {key: client.get_metric_history(identifier, key) for key in recorded.data.metrics}
    return {key: sorted((point.step, point.value) for point in points) for key, points in history.items()}


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("tensorboard", in_tensorboard),
        pytest.param("wandb", in_wandb, marks=pytest.mark.system),
        pytest.param("mlflow", in_mlflow, marks=pytest.mark.system),
    ],
)
def test_each_row_is_in_the_tracker_once_after_a_resume(name: str, read: Any, run: RunFolder) -> None:
    """The process that wrote step 4 was killed; the run resumed at step 3 and repeats it."""
    if name != "tensorboard":
        need_extra("trackers")
    sent(name, run, ROWS)
    sent(name, run, [ROWS[2], {"step": 6, "split": "train", "loss": 1.0, "loss/di": 1.0}], step=3)
    expected = {"train/loss": [(2, 4.0), (4, 2.0), (6, 1.0)], "val/loss": [(2, 3.0)]}
    expected |= {"train/loss/di": expected["train/loss"]}
    until = time.monotonic() + 60  # wandb's service may write the end of a file after its client has finished
    while (written := read(run)) != expected and name == "wandb" and time.monotonic() < until:
        time.sleep(0.1)
    assert written == expected


class Failing:
    """A tracker whose server is gone for the first calls."""

    def __init__(self, failures: int) -> None:
        self.failures, self.rows, self.finished = failures, list[tuple[int | None, dict[str, float]]](), False

    def start(self) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("no route to host")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        pass

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, values))

    def finish(self) -> None:
        self.finished = True


@pytest.mark.parametrize("failures", [0, 2, 10**6])
def test_a_server_that_is_gone_does_not_end_training_and_gets_its_rows_later(
    failures: int, run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    server = Failing(failures)
    monkeypatch.setattr(Tracker, "_made", lambda self: server)
    monkeypatch.setattr(TIMINGS, "tracker", 0.01)
    tracker = Tracker("wandb", run, 0)
    for row in ROWS:
        run.metrics(row)
        tracker.wake()
    waited = threading.Event()
    while (failures and not caplog.records) or (0 < failures < 10 and len(server.rows) < len(ROWS)):
        waited.wait(0.01)
    monkeypatch.setattr(TIMINGS, "tracker", 10.0)
    tracker.close()
    printed = [record.message for record in caplog.records]
    gone = "tracker=wandb: ConnectionError: no route to host; training continues, and the rows are sent again later"
    if failures > 10:
        refused = "ConnectionError: no route to host"
        assert printed == [gone, f"tracker=wandb lacks rows ({refused}); the same command sends them"]
        server.failures = 0
        sent("wandb", run, [], step=4)
    else:
        assert printed == [gone] * bool(failures)
    assert server.rows == [
        (2, {"val/loss": 3.0}),
        (2, {"train/loss": 4.0, "train/loss/di": 4.0}),
        (4, {"train/loss": 2.0, "train/loss/di": 2.0}),
    ]
    assert server.finished


def test_a_tracker_that_hangs_is_left_behind(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    released = threading.Event()
    server = Failing(0)
    server.start = released.wait  # type: ignore[assignment,method-assign]
    monkeypatch.setattr(Tracker, "_made", lambda self: server)
    monkeypatch.setattr(TIMINGS, "tracker", 0.05)
    sent("wandb", run, ROWS)
    assert [record.message for record in caplog.records] == [
        "tracker=wandb lacks rows (no answer); the same command sends them"
    ]
    released.set()


def test_a_missing_package_is_one_line_and_none_imports_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {*sys.modules}
    require_tracker("none")
    for name in ("wandb", "mlflow", "tensorboard"):
        monkeypatch.setattr(errors, "find_spec", lambda _: None)
        with pytest.raises(UserError, match=f"tracker={name} needs the extra `trackers` .*pip install"):
            require_tracker(name)
    assert {*sys.modules} == before
    assert "wandb" not in vars(trackers)
