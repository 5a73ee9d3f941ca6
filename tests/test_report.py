"""The report of synthetic runs whose figures are known, whole, running, interrupted and barely begun."""

import json
import os
import re
import shutil
from base64 import b64decode
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3
import torch
import yaml
from omegaconf import OmegaConf
from PIL import Image
from runs.writers import write

from dira_scale import report
from dira_scale.config.compose import compose
from dira_scale.data.manifest import SCHEMA, DatasetInfo, ShardedDataset
from dira_scale.reporting import health, plots, summary
from dira_scale.reporting.content import read_run
from dira_scale.reporting.page import render
from dira_scale.runs import checkpoint

STAGES = {"di": 40, "dir": 80, "dira": 30}  # optimizer steps
TERMS = {"di": ("di",), "dir": ("di", "re"), "dira": ("di", "re", "ad", "discriminator")}


def row(step: int, stage: str, split: str, lease: int) -> dict[str, Any]:
    losses = {f"loss/{term}": 1.0 / (step + 1) + len(term) for term in TERMS[stage]}
    common = {"step": step, "epoch": step / 10, "stage": stage, "split": split, "lease": lease}
    common |= {"loss": sum(losses.values()), "top1": step / 200, "chance": 1 / 32} | losses
    if split == "val":
        return common
    times = {"time/step": 2.0, "time/data": 0.5, "time/validate": 0.25, "time/checkpoint": 0.25}
    return common | times | {"lr": 1e-3, "images_per_second": 100.0 + step}


def metrics() -> list[dict[str, Any]]:
    """A train row every 5 steps, a held-out one every 10; another process from step 60 on."""
    rows, first = [], 0
    for stage, length in STAGES.items():
        for step in range(first + 5, first + length + 1, 5):
            if step % 10 == 0:
                rows.append(row(step, stage, "val", lease=1 if step <= 60 else 2))
            rows.append(row(step, stage, "train", lease=1 if step <= 60 else 2))
        first += length
    return rows


def dataset(root: Path, xxh3: str = "0") -> ShardedDataset:
    """A manifest of 353 images of a byte each."""
    root.mkdir(exist_ok=True)
    counts = {"train": 320, "val": 33}
    (root / "all.tar").write_bytes(bytes(320))
    image = dict.fromkeys(SCHEMA.names) | {"shard": "all.tar", "size": 1, "codec": "jpg", "low": 0.0, "high": 255.0}
    image |= {"labels": [1.0], "xxh3": xxh3}
    rows = [
        image | {"key": f"{i}", "patient": f"{i}", "split": split, "offset": i}
        for split, count in counts.items() for i in range(count)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), root / "manifest.parquet")
    info = DatasetInfo(
        name="phantom <cxr>", modality="CXR", dims=2, codec="jpg", label_names=["Nodule"], counts=counts, quarantined=2,
        shards={"all.tar": 320}, recipe={}, recipe_hash="", licence="Apache-2.0", tool_version="0",
    )  # fmt: skip
    (root / "dataset.json").write_text(info.to_json())
    return ShardedDataset.open(root)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three stages; left as it is."""
    tmp_path = tmp_path_factory.mktemp("finished")
    shards = dataset(tmp_path / "shards_of_ours")
    folder = tmp_path / "demo"
    (folder / "pictures").mkdir(parents=True)
    config = compose("pretrain", ["experiment=phantom", f"data.shards={shards.root}", f"run={folder}", "data.batch=64"])
    content = OmegaConf.to_container(config) | {"datasets": [{"hash": shards.hash, "weight": 1.0}], "order_version": 1}
    content |= {"views_version": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    (folder / "status.json").write_text(json.dumps({"state": "done", "step": 150, "reason": "", "exit_code": 0}))
    environment = {"dira_scale": "9.8.7", "commit": "c0ffee123456+", "host": "ward7", "command": f"{folder}/x.py a=b"}
    environment |= {"cores": 2, "memory_gib": 7.5, "gpus": [], "torch": "2.13.0+cpu", "timm": None}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in metrics()))
    restoration = []
    for stage, ours in (("dir", 0.006), ("dira", 0.005)):
        for name, mse in {"distorted": 0.04, "blur": 0.03, "telea": 0.02, "restored": ours}.items():
            restoration.append({"stage": stage, "restorer": name, "mse": mse, "ssim": 1 - 5 * mse, "n": 33})
        Image.fromarray(np.zeros((8, 24), np.uint8)).save(folder / "pictures" / f"{stage}.png")
    (folder / "pictures" / "restoration.json").write_text(json.dumps(restoration))
    for step in (40, 150):
        part = folder / "checkpoints" / f"{step:09d}"
        part.mkdir(parents=True)
        (part / "part-00000-of-00001.safetensors").write_bytes(bytes(2**20))
    (folder / "checkpoints" / "000000160.tmp").mkdir()
    (folder / "checkpoints" / "LATEST").write_text("000000150")
    (folder / "checkpoints" / "BEST-di").write_text("000000040")
    (folder / "checkpoints" / "BEST-dira").write_text("000000150\n")
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(finished, tmp_path / finished.name))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Curves, most of a page's time, are left empty: for what a page says."""
    monkeypatch.setattr(plots, "svg", lambda *_: "data:image/svg+xml;base64,")
    monkeypatch.setattr(health, "svg", plots.svg)


@cache
def defaults() -> dict[str, Any]:
    """Of the verb that wrote the run."""
    return OmegaConf.to_container(compose("pretrain", ["data.shards=null"]))


def rendered(folder: Path) -> str:
    return render(read_run(folder), defaults())


@pytest.fixture(scope="module")
def html(finished: Path) -> str:
    """Its page."""
    return rendered(finished)


class Page(HTMLParser):
    """The text of a page, its addresses, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def page(folder: Path) -> Page:
    return Page(rendered(folder))


def test_the_page_asks_nothing_of_any_server(html: str) -> None:
    addresses = Page(html).addresses
    assert addresses
    assert all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"@import|url\(|<script|<link", html)


def test_every_picture_and_curve_can_be_read(html: str) -> None:
    addresses = Page(html).addresses
    svgs = [ElementTree.fromstring(b64decode(a.partition(",")[2])) for a in addresses if "svg+xml" in a]
    pngs = [Image.open(BytesIO(b64decode(a.partition(",")[2]))) for a in addresses if "/png" in a]
    assert len(pngs) == 2
    assert len(svgs) == 8  # total, di, re, ad, discriminator, top-1, rate; and the bars
    texts = [" ".join(svg.itertext()) for svg in svgs]
    assert all("optimizer step" in text for text in texts[:-1])
    assert "seconds" in texts[-1]


def test_headlines_are_what_the_rows_say(html: str) -> None:
    text = Page(html).text
    assert "Done 150 steps, 15.0 epochs" in text
    assert "1 min 30 s of computing; resumed 1 time" in text  # 30 train rows of 3 s
    assert "0.25 × the error of the best trivial restorer" in text
    assert "MSE 0.0050, against 0.0200 for Telea's inpainting" in text
    assert "24 × chance" in text  # 0.75 at step 150, held out, against 1/32
    speeds = [r["images_per_second"] for r in metrics() if r["stage"] == "dira" and r["split"] == "train"]
    assert f"{median(speeds):.0f} images/s in the last stage, on 2 CPU cores" in text


def test_throughput_by_stage_counts_every_second_once(finished: Path) -> None:
    stages = summary.throughput(read_run(finished))
    assert {t.stage: t.steps for t in stages} == STAGES
    assert [round(t.epochs, 6) for t in stages] == [4, 8, 3]
    for part in ("step", "data", "validate", "checkpoint"):
        assert sum(t.seconds[part] for t in stages) == sum(r.get(f"time/{part}", 0) for r in metrics())


def test_tables(html: str) -> None:
    text = Page(html).text
    assert "the distorted input itself 0.0400 0.800 0.0400 0.800" in text
    assert "this model 0.0060 0.970 0.0050 0.975" in text
    assert "40 1 best of di 150 1 best of dira, latest" in text.replace("latest, best of dira", "best of dira, latest")
    assert "160" not in re.findall(r"step MiB kept as (.*) Configuration", text)[0]
    assert "phantom <cxr>" in text  # escaped in the file, whole on the page
    assert "train 320, val 33 images" in text
    assert "2 inputs in quarantine" in text


def test_settings_that_differ_from_the_defaults_stand_out(finished: Path) -> None:
    groups = summary.settings(read_run(finished).config, defaults())
    found = {setting.key: setting for group in groups.values() for setting in group}
    assert (found["data.batch"].value, found["data.batch"].default) == ("64", "256")
    assert (found["model.encoder"].value, found["model.encoder"].default) == ("resnet18", "resnet50")
    assert found["seed"].default is None
    assert not {"datasets", "order_version", "views_version"} & found.keys()
    assert {"run", "data", "model", "method"} <= groups.keys()


def test_stages_meet_and_restarts_are_found(finished: Path) -> None:
    run = read_run(finished)
    assert [run.span(stage) for stage in run.stages] == [(0, 40), (40, 120), (120, 150)]
    assert run.restarts() == [60]


def test_equal_runs_give_equal_pages(finished: Path, html: str) -> None:
    assert rendered(finished) == html


def test_a_running_run_with_a_half_written_row(run: Path) -> None:
    rows = metrics()[:6]
    text = "".join(json.dumps(r) + "\n" for r in rows)
    (run / "metrics.jsonl").write_text(text + '{"step": 25, "epo')
    (run / "status.json").write_text(json.dumps({"state": "running", "step": 20, "reason": ""}))
    for name in ("dir.png", "dira.png", "restoration.json"):
        (run / "pictures" / name).unlink()
    found = page(run)
    assert "Running 20 steps" in found.text
    assert "no restored pictures: a stage with restoration writes them when it ends" in found.text
    assert "trivial restorer" not in found.text


@pytest.mark.usefixtures("undrawn")
def test_an_interrupted_run_says_why(run: Path) -> None:
    status = {"state": "failed", "step": 0, "reason": "FloatingPointError: the loss is nan", "exit_code": 1}
    (run / "status.json").write_text(json.dumps(status))
    assert "FloatingPointError: the loss is nan" in page(run).text


@pytest.mark.usefixtures("undrawn")
def test_a_run_that_failed_says_so_at_the_top_in_its_own_words(run: Path, html: str) -> None:
    images = "nan/step-000000010/rank-1/batch.json"
    asked = yaml.safe_load((run / "config.yaml").read_text())["run"]
    for folder in (asked, run):
        reason = f"step 10: loss/re is not finite on rank 1; its images: {folder}/{images}; see /secret/place/x.txt"
        (run / "status.json").write_text(json.dumps({"state": "failed", "step": 10, "reason": reason}))
        page = rendered(run)
        top = page[page.index("The run failed:") : page.index('class="cards"')]
        assert f"loss/re is not finite on rank 1; its images: {images}; see x.txt" in top
        assert page.count("loss/re is not finite") == 1
    assert "The run failed" not in html


def test_a_killed_run_is_not_called_running(run: Path) -> None:
    (run / "status.json").write_text(json.dumps({"state": "running", "step": 20, "reason": ""}))
    lease = run / "leases" / "000001.json"
    lease.parent.mkdir()
    lease.write_text("{}")
    assert read_run(run).status["state"] == "running"
    os.utime(lease, (0, 0))  # its beat stood still since 1970
    assert read_run(run).status["state"] == "killed"


def test_a_run_that_has_barely_begun(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing but its configuration: a page all the same, which says what is missing."""
    for path in ("metrics.jsonl", "status.json", "environment.json", "pictures/restoration.json"):
        (run / path).unlink()
    for name in ("dir", "dira"):
        (run / "pictures" / f"{name}.png").unlink()
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["shards"], config["datasets"] = ["nowhere/a", "nowhere/b"], [{"hash": "0"}, {"hash": "1"}]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert report.main([f"run={run}"]) == 0
    said = capsys.readouterr().out
    assert "not in the report: no row in metrics.jsonl yet" in said
    assert "data b: no readable dataset where the run read it" in said
    text = Page((run / "report.html").read_text()).text
    assert "Not in this report" in text
    assert "State unknown 0 steps" in text


def test_the_page_tells_no_folder_and_no_host(finished: Path, html: str) -> None:
    """It may be mailed: names of folders may name people and places."""
    assert "ward7" not in html
    assert str(finished.parent) not in html
    assert "x.py" not in html
    assert "shards_of_ours" in html
    status = {"state": "failed", "step": 0, "reason": "OSError: [Errno 5] I/O: '/home/dr/a-1/x.tar', 3 images/s, ~/y/z"}
    failure = summary.failure(replace(read_run(finished), status=status))
    assert failure == "OSError: [Errno 5] I/O: 'x.tar', 3 images/s, z"


def test_weighted_datasets_of_one_name_are_both_shown(finished: Path) -> None:
    config = read_run(finished).config
    config["data"]["shards"] = {"/site/one/cxr": 1.0, "/site/two/cxr": 0.5}
    shown = [(s.key, s.value) for s in summary.settings(config, {})["data"] if "shards" in s.key]
    assert shown == [("data.shards.cxr", "1"), ("data.shards.cxr", "0.5")]


def test_the_environment_names_what_computed_the_run(html: str) -> None:
    text = Page(html).text
    assert "dira scale 9.8.7 commit c0ffee123456+ cores 2 memory gib 7.5 gpus none" in text
    assert "timm" not in text.partition("Environment")[2]  # not known


@pytest.mark.usefixtures("undrawn")
def test_other_images_in_a_datasets_place_are_not_described(run: Path) -> None:
    """The hash of what was trained on stands in config.yaml."""
    root = run.parent / "moved"
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["shards"] = str(root)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    dataset(root)
    assert "train 320, val 33 images" in page(run).text
    dataset(root, xxh3="1")
    text = page(run).text
    assert "data moved: the dataset there now has other images" in text
    assert "train 320" not in text and "Apache" not in text.partition("Data moved")[2]
    assert config["datasets"][0]["hash"][:12] in text


@pytest.mark.usefixtures("undrawn")
def test_each_dataset_has_its_own_hash_once(run: Path) -> None:
    both = [dataset(run.parent / name, xxh3=name) for name in ("one", "two")]
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["shards"], config["datasets"] = [str(d.root) for d in both], [{"hash": d.hash} for d in both]
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    text = page(run).text
    assert [text.count(d.hash[:12]) for d in both] == [1, 1]


def test_one_row_and_a_validation_of_one_image_are_no_crash(run: Path) -> None:
    rows = [row(5, "di", "train", 1), row(5, "di", "val", 1) | {"chance": 1.0, "top1": 1.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert "training images, step 5" in page(run).text  # one image alone cannot be mistaken: not held-out evidence


@pytest.mark.usefixtures("undrawn")
def test_the_verb_writes_where_it_is_told(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "page.html"
    assert report.main([f"run={run}", f"out={out}"]) == 0
    assert str(out) in capsys.readouterr().out
    assert out.read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run=NOWHERE"], "run=NOWHERE is not a run folder: config.yaml is missing"),
        ([], "run must be given"),
        (["run={run}", "out=NOWHERE/page.html"], "no such folder: NOWHERE"),
        (["rum={run}"], "did you mean 'run'?"),
    ],
)
def test_bad_input_is_one_line(run: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main([word.format(run=run) for word in words]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_smoothing_keeps_a_constant_and_a_short_series() -> None:
    np.testing.assert_allclose(plots.smooth(np.full(100, 3.0)), 3.0)
    short = np.array([1.0, 5.0, 2.0])
    np.testing.assert_array_equal(plots.smooth(short), short)
    noise = np.random.default_rng(0).normal(size=1000)
    assert plots.smooth(noise)[500:].std() < noise.std() / 2


@pytest.mark.parametrize(("seconds", "text"), [(7.4, "7 s"), (552, "9 min 12 s"), (11_100, "3 h 05 min")])
def test_durations_read_well(seconds: float, text: str) -> None:
    assert summary.duration(seconds) == text


def test_health_is_drawn_and_warnings_stand_at_the_top(run: Path, request: pytest.FixtureRequest) -> None:
    rows = metrics()
    for i, healthy in enumerate(r for r in rows if r["split"] == "train" and r["step"] % 10 == 0):
        healthy |= {f"health/{name}": 0.5 + i for name in ("std", "rank", "gradient/di", "features_std")}
        if healthy["stage"] == "dira":
            healthy |= {"health/gradient/re": 1e-3, "health/discriminator": 0.9}
    for held_out in (r for r in rows if r["split"] == "val"):
        held_out["health/knn_auc"] = 0.7
    rows[-1]["warnings"] = ["L_di dwarfs <L_re>"]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    drawn = {title: address for title, _, address in health.monitor_plots(read_run(run))}
    assert list(drawn) == [
        "Spread of directions",
        "Effective rank",
        "Gradient of each term at the encoder's output",
        "Discriminator's accuracy",
        "Nearest-neighbour AUC of the labels",
    ]
    svgs = [ElementTree.fromstring(b64decode(address.partition(",")[2])) for address in drawn.values()]
    texts = [" ".join(svg.itertext()) for svg in svgs]
    assert all("optimizer step" in text for text in texts)
    assert "embeddings" in texts[0] and "encoder's features" in texts[0] and "encoder's features" not in texts[1]
    assert all(term in texts[2] for term in ("di", "re"))
    request.getfixturevalue("undrawn")
    text = page(run).text
    assert text.index("step 150 (dira): L_di dwarfs <L_re>") < text.index("Curves") < text.index("Spread of directions")


@pytest.mark.parametrize(
    "errors", [("ordinary", "momentum", "hybrid"), ("ordinary", "hybrid", "mixed", "mixed_hybrid")]
)
def test_pcrls_errors_are_drawn_together(run: Path, errors: tuple[str, ...]) -> None:
    """In every row, as losses are; in a stage that no other recipe has."""
    rows = [row | {"stage": "pcrl"} | {f"re_{error}": 0.1 for error in errors} for row in metrics()]
    (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    [(title, normal, address)] = health.monitor_plots(read_run(run))
    assert title == "PCRL's errors" and "fall together" in normal
    words = " ".join(ElementTree.fromstring(b64decode(address.partition(",")[2])).itertext())
    assert ("momentum" in words) == ("momentum" in errors) and ("mixed, hybrid" in words) == ("mixed" in errors)
    assert all(word in words for word in ("ordinary", "hybrid", "pcrl"))


def test_a_run_without_health_has_no_empty_section(html: str) -> None:
    text = Page(html).text
    assert "Health" not in text and "Warnings" not in text


@pytest.mark.usefixtures("undrawn")
def test_epochs_that_are_scaled_are_said(run: Path, html: str) -> None:
    assert "epoch_factor )" not in Page(html).text.partition("Configuration")[0]
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"epoch_factor": 0.02}))
    assert "every stage has 0.02 times the epochs that its recipe states ( epoch_factor )" in page(run).text


@pytest.mark.usefixtures("undrawn")
def test_titles_name_the_base_and_the_distance(finished: Path) -> None:
    titles = [title for title, _ in plots.curves(read_run(finished))]
    assert "Discrimination (MoCo)" in titles and "Restoration (MSE)" in titles


@pytest.mark.usefixtures("undrawn")
def test_checkpoints_in_a_store_are_shown_as_long_as_it_answers(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Where they are not to be read the page says so without naming the store; the terminal names it."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    config = yaml.safe_load((run / "config.yaml").read_text())
    with s3.bucket() as bucket:
        config["checkpoint"]["folder"] = f"{bucket.url}/runs/mine"
        config["data"]["shards"] = f"{bucket.url}/cxr"
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        folder = checkpoint.find_folder(run)
        folder.mkdir(parents=True)
        write(folder, 40, {"x": torch.zeros(2**18)}, best={"di": 40})
        write(folder, 150, {"x": torch.zeros(2**19)}, world=2, best={"di": 40})
        assert "step MiB kept as 40 1 best of di 150 2 latest Configuration" in page(run).text
        bucket.process.kill()
        bucket.process.wait()
        assert report.main([f"run={run}"]) == 0
    unread = "checkpoints: checkpoint.folder could not be read when this page was written"
    said = capsys.readouterr().out
    assert f"not in the report: {unread}" in said
    assert "not in the report: data cxr: no readable dataset where the run read it" in said
    html = (run / "report.html").read_text()
    assert unread in html and "s3:" not in html and "Traceback" not in caplog.text
    assert "checkpoint.folder=s3://bucket/runs/mine cannot be used" in caplog.text
