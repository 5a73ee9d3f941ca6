"""``finetune task=regression``, ``ordinal`` and ``survival``: losses against their formulas, runs from shards to
predictions."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from dataset.conftest import maker
from finetune.conftest import TINY
from harness import rows
from scipy.stats import pearsonr
from torch import Tensor

from dira_scale.api import export
from dira_scale.base.errors import UserError
from dira_scale.dataset.manifest import ShardedDataset
from dira_scale.dataset.metrics.cases import number_arrays, read_cases
from dira_scale.evaluate import main as evaluate
from dira_scale.finetune import main
from dira_scale.judge.evaluation.comparison import compared
from dira_scale.judge.tasks.images import gathered
from dira_scale.judge.tasks.ordinal import Grades, Ordinal, corn
from dira_scale.judge.tasks.regression import Regression, normalisation
from dira_scale.judge.tasks.survival import Survival, Times, partial_likelihood
from dira_scale.judge.tasks.task import Chosen, identity
from dira_scale.localize import main as localize
from dira_scale.predict import main as predict
from dira_scale.report import main as report
from dira_scale.train.data.numbers import Numbers
from dira_scale.train.runs.description import read_description

NAN = math.nan
SPLITS = ["train"] * 48 + ["val"] * 24 + ["test"] * 24
NAMES = ("grade", "months", "died", "width", "dark")
TASKS = {
    "regression": ["task=regression", "task.labels=[width]"],
    "ordinal": ["task=ordinal", "task.label=grade"],
    "survival": ["task=survival", "task.time=months", "task.event=died"],
}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Discs: the larger, the higher their grade, and the shorter their patient lives; ``width`` is their diameter in
    made-up units. Some labels are unknown."""
    pytest.importorskip("monai")
    rng = np.random.default_rng(0)
    images, labels, (y, x) = [], [], np.mgrid[:40, :48]
    for number, split in enumerate(SPLITS):
        radius = rng.integers(4, 20)
        image = rng.integers(0, 60, (40, 48)).astype(np.uint8)
        image[(y - 20) ** 2 + (x - 24) ** 2 < radius**2] = 200
        images.append(image)
        unknown = split == "train" and number % 8 == 0
        grade, months = float((radius - 4) // 4), 200 / radius * rng.uniform(0.8, 1.25)
        values = grade, months, float(rng.random() < 0.7), 1000 + 20.0 * radius, number % 7 / 100
        labels.append([NAN if unknown and column in (0, 1, 3) else value for column, value in enumerate(values)])
    names = [f"p{number // 2}" for number in range(len(SPLITS))]
    made = maker(tmp_path_factory.mktemp("toy"))
    return made(images, label_names=NAMES, labels=labels, splits=SPLITS, patients=names, name="graded").root


def slopes(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


def test_the_partial_likelihood_is_breslows_and_so_is_its_gradient() -> None:
    """Rows are tied, censored and unknown, and risks far from 0."""
    torch.manual_seed(0)
    risks = (200 * torch.randn(9, dtype=torch.float64)).requires_grad_()
    times = torch.tensor([1.0, 2, 2, 2, 3, 3, NAN, 5, 6])
    events = torch.tensor([1.0, 1, 1, 0, 0, 1, 1, NAN, 0])
    known = [0, 1, 2, 3, 4, 5, 8]
    each = [
        torch.logsumexp(torch.stack([risks[j] for j in known if times[j] >= times[i]]), 0) - risks[i]
        for i in known if events[i] == 1
    ]  # fmt: skip
    expected, loss = torch.stack(each).mean(), partial_likelihood(risks, times, events)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes(loss, risks), slopes(expected, risks), rtol=1e-12, atol=1e-14)
    task = Survival(Times(("months", "died")))
    of_task = task.terms(risks[:, None].detach(), torch.stack([times, events], 1), identity)["cox"]
    assert float(of_task) == pytest.approx(float(expected.detach()), rel=1e-6)


@pytest.mark.parametrize("events", [[0.0, 0, 0], [NAN, NAN, 0], [0, 1, NAN]])
def test_a_batch_without_an_event_moves_nothing(events: list[float]) -> None:
    """Or of whose events the time is not known."""
    risks = torch.randn(3, requires_grad=True)
    loss = partial_likelihood(risks, torch.tensor([1.0, NAN, 3]), torch.tensor(events))
    assert float(loss.detach()) == 0 and not slopes(loss, risks).any()


def test_corn_is_the_mean_over_the_questions_that_are_asked() -> None:
    torch.manual_seed(0)
    logits, grades = torch.randn(7, 3, dtype=torch.float64, requires_grad=True), [0, 1, 2, 3, 3, NAN, 1]
    each = [
        -torch.log(torch.sigmoid(logits[i, j]) if grade > j else 1 - torch.sigmoid(logits[i, j]))
        for i, grade in enumerate(grades) for j in range(3) if grade >= j
    ]  # fmt: skip
    expected, loss = torch.stack(each).mean(), corn(logits, torch.tensor(grades)[:, None], identity)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(slopes(loss, logits), slopes(expected, logits), rtol=1e-10, atol=1e-14)
    nothing = corn(logits, torch.full((7, 1), NAN), identity)
    assert float(nothing.detach()) == 0 and not slopes(nothing, logits).any()


def test_a_grade_is_how_many_products_of_chances_are_over_one_half() -> None:
    task = Ordinal(Grades(("kl",), grades=4))
    chances = torch.tensor([[0.9, 0.8, 0.6], [0.4, 0.9, 0.9], [0.9, 0.9, 0.9]])
    predicted = task.predicted(torch.logit(chances))
    torch.testing.assert_close(predicted[0], torch.tensor([0.9, 0.72, 0.432]))
    assert (predicted.diff(dim=1) <= 0).all()
    answers = task.answers(predicted, Chosen())
    assert answers[:, 0].tolist() == [2, 0, 3] and task.columns(Chosen()) == ("kl", *task.outputs)


def test_losses_of_numbers_are_means_over_what_is_known_of_normalised_ones() -> None:
    task = Regression(Numbers(("a", "b")), {"a": (50.0, 10.0), "b": (0.5, 0.25)})
    logits, targets = torch.tensor([[0.5, 1.0], [-1.0, 2.0]]), torch.tensor([[60.0, NAN], [45.0, 0.75]])
    errors = [0.5 - 1, -1 + 0.5, 2 - 1]
    losses = task.terms(logits, targets, identity)
    assert float(losses["mse"]) == pytest.approx(sum(error**2 for error in errors) / 3)
    assert float(losses["mae"]) == pytest.approx(sum(map(abs, errors)) / 3)
    np.testing.assert_allclose(task.predicted(logits), [[55, 0.75], [40, 1.0]])
    nothing = task.terms(logits.requires_grad_(), torch.full((2, 2), NAN), identity)["mse"]
    assert float(nothing.detach()) == 0 and not slopes(nothing, logits).any()
    pairs = normalisation(torch.tensor([[1.0, NAN], [3.0, 2.0], [NAN, 4.0], [8.0, NAN]]), ["a", "b"])
    assert pairs == {"a": (4.0, pytest.approx(math.sqrt((9 + 1 + 16) / 3))), "b": (3.0, 1.0)}


def test_held_out_rows_are_in_the_order_of_the_samples_whoever_saw_them() -> None:
    index, values = gathered([(np.array([5, 1]), np.array([50, 10])), (np.array([3]), np.array([30]))])
    assert index.tolist() == [1, 3, 5] and values.tolist() == [10, 30, 50]


@pytest.mark.system
@pytest.mark.parametrize("task", TASKS)
def test_a_run_from_shards_to_figures_and_predictions(
    task: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`predict` of the run and of its export, `evaluate` and a sweep's table say what the run does."""
    run = tmp_path / "run"
    rate = "optim.optimizer.lr=3e-3", "stages.finetune.epochs=14", "views.flip=0.5"
    words = [*TINY, *TASKS[task], f"data.shards={shards}", f"run={run}", *rate]
    assert main([*words, "steps=40"]) == 0 and main(words) == 0
    content = json.loads((run / "results.json").read_text())
    figures = {(row["metric"], row["name"]): row for row in content["figures"]["test"]}
    cases = read_cases(run / "cases" / "test.parquet")
    metric, least = {"regression": ("R2", 0.5), "ordinal": ("kappa", 0.7), "survival": ("concordance", 0.7)}[task]
    key, validated = (metric, "mean"), metric.lower()
    low, high = figures[key]["interval"]
    assert low <= figures[key]["value"] <= high and figures[key]["value"] > least, "it has learned"
    assert content["step"] == max(rows(run, "val"), key=lambda row: row[validated])["step"]
    assert content["thresholds"] is None and len(cases) == 24
    if task == "regression":
        targets, predictions, names, _ = number_arrays(cases)
        error, described = predictions - targets, read_description(run)
        expected = {
            ("MAE", "width"): np.abs(error).mean(), ("RMSE", "mean"): np.sqrt((error**2).mean()),
            ("R2", "width"): 1 - (error**2).sum() / (targets.var() * 24),
            ("Pearson r", "width"): pearsonr(predictions[:, 0], targets[:, 0]).statistic,
        }  # fmt: skip
        assert {name: figures[name]["value"] for name in expected} == pytest.approx(expected) and names == ["width"]
        known = ShardedDataset.open(shards).labels(np.arange(48))[:, 3]
        known = known[~np.isnan(known)].astype(float)
        ((mean, deviation),) = described.output.normalised
        assert (mean, deviation) == pytest.approx((known.mean(), known.std())) and len(known) == 42
        assert f"width {mean:.6g} and {deviation:.6g}" in " ".join(described.training)

    head = {
        "regression": ["width"], "ordinal": ["grade", *(f"grade above {n}" for n in range(3))],
        "survival": ["risk of died"],
    }[task]  # fmt: skip
    said = [case.risk if task == "survival" else case.prediction for case in cases]
    said_nearly = pytest.approx(said, rel=1e-5, abs=1e-5 * max(map(abs, said)))  # terms may sum to almost none
    for source in (run, export(run, {"formats": ["plain"]})):
        out = tmp_path / f"{source.name}-predicted"
        assert predict([f"run={source}", f"data.shards={shards}", f"out={out}"]) == 0
        first, *lines = (line.split(",") for line in (out / "predictions.csv").read_text().splitlines())
        values = {name: float(value) for name, value, *_ in lines}
        assert first == ["key", *head] and [values[case.key] for case in cases] == said_nearly
    assert evaluate([f"run={run}", f"data.shards={shards}", f"out={tmp_path / 'judged'}"]) == 0
    again = json.loads((tmp_path / "judged" / "results.json").read_text())["figures"]["test"]
    found = {(row["metric"], row["name"]): row["value"] for row in again}
    of_run = {key: row["value"] for key, row in figures.items()}
    assert found == (pytest.approx(of_run, rel=1e-5) if task == "regression" else of_run)

    spread, *others = compared([({}, run)]).spreads
    assert spread.metric == " ".join(key) and spread.interval is not None
    assert spread.mean == pytest.approx(spread.interval.value)
    assert report([f"run={run}"]) == 0 and metric in (page := (run / "report.html").read_text())
    if task == "regression":
        assert [each.metric for each in others] == ["MAE width"] and "width: predicted over true" in page
        assert "| 0 | width |" in (run / "export" / "README.md").read_text()
    capsys.readouterr()
    assert localize([f"run={run}", f"data.shards={shards}", f"out={tmp_path / 'seen'}"]) == 2
    assert "localize asks where labels are seen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        ([*TASKS["ordinal"], "task.label=months"], "has the value 1"),
        ([*TASKS["ordinal"], "task.grades=3"], "has the value 3, and grades are 0 to 2, of which there are 3"),
        ([*TASKS["ordinal"], "task.grades=1001"], "task.grades=1001: expected a whole number from 2 to 1000, or null"),
        (["task=ordinal"], "task.label: expected the one that is graded, of grade, months"),
        ([*TASKS["survival"], "task.event=grade"], "event 'grade' is "),
        (["task=survival", "task.time=months"], "task.event"),
        ([*TASKS["survival"], "evaluate.temperature=true"], "temperature scaling is of labels"),
        ([*TASKS["regression"], "evaluate.window=sliding"], "evaluate.window=sliding: windows are of masks; use"),
        ([*TASKS["regression"], "task.loss=[ce]"], "task.loss[0]=ce: expected mse or mae"),
        (["task=regression", "task.labels=[widht]"], f"no label 'widht', but {', '.join(NAMES)}; did you mean"),
        (["task=labels"], "numbers are learned by task=regression"),
    ],
)
def test_what_is_no_number_grade_or_event_is_refused(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], printed: str
) -> None:
    assert main([*TINY, *words, f"data.shards={shards}", f"run={tmp_path / 'run'}"]) == 2
    assert printed in (said := capsys.readouterr().err) and "Traceback" not in said
    assert not (tmp_path / "run").exists()


def test_a_grade_decides_no_memory() -> None:
    """Each is an output: 2^24 of them would take gigabytes."""
    Grades(("grade",))._check(np.array([[0.0], [999.0]]), np.ones(2), "here", True)
    with pytest.raises(UserError, match=r"'grade' has the value 1e\+09, and grades are 0 to 999$"):
        Grades(("grade",))._check(np.array([[0.0], [1e9]]), np.ones(2), "here", True)
