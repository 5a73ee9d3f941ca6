"""The card's sections: what a run records, what its author writes, what is missing and how to fill it."""

import json
import re
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from export.test_export import Trained
from finetune.test_comparison import Runs, labelled
from train.models.test_classifier import model
from train.models.test_formats_of_classes import described

from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import DatasetInfo
from dira_scale.dataset.manifest.croissant import croissant
from dira_scale.dataset.metrics.figure import Figure
from dira_scale.export import main
from dira_scale.export.card import Card
from dira_scale.export.config import CardWords
from dira_scale.export.make import evaluated
from dira_scale.export.release import Compute, Release
from dira_scale.judge.pages.probe_figures import FORMAT, Features, Fit, as_json, figures
from dira_scale.train.runs.description import Dataset
from dira_scale.train.runs.reader import TrainingData

ROOT = Path(__file__).parents[3]
WORDS = {"developers": "A. Author", "contact": "the issues", "citation": "A. Author, 2026", "bias": "None known."}


def words(**keys: Any) -> CardWords:
    return CardWords(**({"intended_use": "Research.", "out_of_scope": "Diagnosis."} | keys))


def probed(folder: Path, run: str) -> Path:
    """What `probe` leaves, of one figure, of one label and of one number."""
    folder.mkdir(exist_ok=True)
    source, fits = Features("demo", "run", "last", 8, [{}]), []
    for draw in (0.015, 0.0, -0.015):
        values = {("AUROC", "mean"): 0.713 + draw, ("AUROC", "Nodule"): 0.713 + draw, ("R2", "age"): 0.125 + draw}
        fits.append(Fit({key: Figure(*key, value, 9, 0, 9, share=True) for key, value in values.items()}))
    rows = as_json(figures(source, [{("linear", 0.1): fits}], {0.1: 16.0}))
    content = {"format": FORMAT, "config": {"run": run}, "notes": ["On the test part."]}
    content |= {"compared": [vars(source)], "figures": rows}
    (folder / "probe.json").write_text(json.dumps(content))
    return folder


def section(card: str, title: str) -> str:
    return card.partition(f"\n## {title}\n")[2].partition("\n## ")[0].strip()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("run"), "test_resnet")


def test_energy_is_devices_times_power_times_hours_times_pue() -> None:
    rows = [{"time/step": 5400.0, "time/data": 900.0, "loss": 3.0}, {"time/step": 900.0}, {"loss": 2.0}]  # 2 hours
    compute = Compute.of(rows, {"gpus": ["H9"] * 4, "processes": 3})
    assert compute == Compute(2.0, "H9", 3)
    assert "Energy: 5.04 kWh = devices x power x hours x PUE = 3 x 700 W x 2 h x 1.2." in compute.text(
        words(watts=700.0, pue=1.2)
    )


def test_the_card_says_of_each_gap_what_to_run_or_to_write(trained: Trained, tmp_path: Path) -> None:
    assert main([f"run={trained.run}", f"out={tmp_path}", "formats=timm"]) == 0
    card = (tmp_path / "README.md").read_text()
    titles = re.findall(r"^## (.*)$", card, re.MULTILINE)
    assert titles == [
        "Intended use", "Out of scope", "Bias, risks and limitations", "Loading", "Training data", "Training procedure",
        "Compute", "Evaluation", "Authors", "Citation",
    ]  # fmt: skip
    command = "`python -m dira_scale.probe run=demo data.shards=shards out=demo/probe`"
    assert section(card, "Evaluation").startswith(f"Not evaluated, run {command}")
    assert section(card, "Citation") == "Not written: `card.citation=…`."
    assert str(trained.run.parent) not in card


def test_a_release_names_all_gaps_at_once_and_writes_nothing(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "release"
    command = [f"run={trained.run}", f"out={out}", "formats=timm", "release=true"]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "release=true: the card has 5 gaps: " in error and not out.exists()
    for key in WORDS:
        assert f"(card.{key}=…)" in error
    assert f"run `python -m dira_scale.probe run={trained.run} data.shards={trained.config['data']['shards']}" in error
    given = [f"card.{key}={json.dumps(value)}" for key, value in WORDS.items()]
    assert main([*command, *given, f"card.evaluation={probed(tmp_path / 'probe', str(trained.run))}"]) == 0
    card = (out / "README.md").read_text()
    assert "Not written" not in card and "Not evaluated" not in card
    assert "71.3 ± 1.5" in section(card, "Evaluation") and "On the test part." in section(card, "Evaluation")
    assert "**Frozen features, R2 of age, in percent**" in card and "12.5 ± 1.5" in section(card, "Evaluation")
    assert section(card, "Citation") == WORDS["citation"]


def test_a_release_needs_the_licences_of_data_and_of_initial_weights() -> None:
    run = replace(described(model("test_resnet"), "pooled"))
    run = replace(run, network=replace(run.network, licence=None))
    data = TrainingData(Dataset("shards/a", "0" * 16), None, "gone", "no sharded dataset at shards/a")
    release = Release(words(**WORDS), evaluation=["a table"])
    assert release.gaps(run, [data]) == [
        "licence and counts of the dataset a: no sharded dataset at shards/a",
        "data of the weights imagenet.pth that it started from (card.start_data=…)",
        "licence of the weights imagenet.pth that it started from (card.start_licence=…)",
    ]
    given = replace(release, words=words(**WORDS, start_licence="CC-BY-4.0", start_data="ImageNet"))
    assert given.gaps(run, []) == []
    unstated = TrainingData(Dataset("a", "0" * 16, name="mine", licence="not stated", samples={"train": 3}), None)
    (gap,) = given.gaps(run, [unstated])
    assert gap == "licence of the dataset mine: not stated (shard it with recipe.licence=…)"
    assert 'license_name: "CC-BY-4.0"' in Card("lungs", run, [], "train", 3, 0.5, False, {}, given).text()


def test_a_fine_tuned_evaluation_has_its_interval_over_patients(tmp_path: Path) -> None:
    made = Runs(tmp_path)
    pretrained = made.run("pretrained")
    folder, value = labelled(made.run("tuned", str(pretrained)), 0)
    for run in (pretrained, folder):  # the card of either
        table = evaluated(folder, run)
        low, high = map(float, re.findall(r"([\d.]+) to ([\d.]+)", table)[0])
        assert f"| {value:.4f} |" in table and low < value < high and "test patients" in table
    with pytest.raises(UserError, match=r"card.evaluation: .*tuned evaluates .*, not .*other"):
        evaluated(folder, tmp_path / "other")


def test_names_of_others_are_no_html() -> None:
    """Neither of a dataset nor of the run; the code to load weights is as it is."""
    run = described(model("test_resnet"), "pooled")
    evil = "</code><script src=//evil></script><!-- <?x <img src=x onerror=y>"
    run = replace(run, trained=evil, training=(evil,), network=replace(run.network, name=evil, start=f"a{evil}"))
    known = Dataset("x", "h", 1.0, evil, evil, evil, {run.data.split: 3}, lists=evil, channels=("T1", evil))
    run = replace(run, data=replace(run.data, datasets=(known,)), network=replace(run.network, channels=2))
    text = Card("demo", run, [TrainingData(known, None)], "train", 3, 0.5, False, {}).text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["license_name"].startswith(evil)
    assert text.count("&lt;script") >= 6 and not re.search("<[a-z/!?]", body)
    assert "Input: the channels T1, " in body and "image = torch.rand(1, 2, 64, 64)  # your" in body


def test_card_croissant_and_dataset_json_agree(tmp_path: Path) -> None:
    """They agree for grey images, pictures in colour and named channels, under the licence of every recipe."""
    manifest, recipes = tmp_path / "manifest.parquet", ROOT.glob("shards/recipe/*.yaml")
    manifest.write_bytes(b"hashed only")
    licences = sorted({yaml.safe_load(path.read_text()).get("licence", "none") for path in recipes})
    run = described(model("test_resnet"), "pooled")
    grey = DatasetInfo(
        name="demo", modality="MR", dims=2, codec="png", label_names=[], counts={run.data.split: 3, "held_out": 1},
        quarantined=0, shards={}, recipe={}, recipe_hash="", licence="", tool_version="0",
    )  # fmt: skip
    forms = {"grey": grey, "red, green and blue": replace(grey, recipe={"colour": "rgb"})}
    forms["the channels T1, FLAIR, each"] = replace(grey, channels=["T1", "FLAIR"])
    for (input, form), licence in product(forms.items(), licences):
        info = replace(form, licence=licence)
        told, stored, known = croissant(info, manifest), json.loads(info.to_json()), Dataset("x", "h").known(info)
        channels = told.get("variableMeasured", ["grey"])
        shown = replace(run, data=replace(run.data, datasets=(known,)))
        card = Card("x", shown, [TrainingData(known, info)], "train", 3, 0.5, False, {})
        counts, text = ", ".join(f"{count} {split}" for split, count in stored["counts"].items()), card.text()
        assert told["description"].endswith(f": {counts}.") and f"| {counts} |" in text
        assert told["license"]["name"] == stored["licence"] and f"| {stored['licence']} |" in text
        assert told["name"] == stored["name"] and f"| {stored['name']} ({stored['modality']}) |" in text
        assert f"Input: {input} in [0, 1]" in text and all(channel in input for channel in channels)
    refused = yaml.safe_load((ROOT / "configs/export.yaml").read_text())["card"]["out_of_scope"]
    assert told["rai:dataUseCases"][1] == f"Not for {refused[0].lower()}{refused[1:]}" and len(licences) > 15
