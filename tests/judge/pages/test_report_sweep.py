"""The page of a sweep: its cells against plain sums and scipy's tests, what may be claimed, the papers' figures."""

import csv
import json
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_tables import FRACTIONS, TABLES, add, finished_sweep, probe_json
from matplotlib.figure import Figure
from scipy import stats

from dira_scale import report
from dira_scale.base.errors import UserError
from dira_scale.dataset.metrics.figure import plain
from dira_scale.dataset.metrics.statistics.bootstrap import Interval
from dira_scale.dataset.metrics.statistics.significance import Comparison
from dira_scale.dataset.metrics.statistics.spread import Spread
from dira_scale.judge.pages.tables.cells import Cell, Published, RandomTwin, Table
from dira_scale.judge.pages.tables.figures import _reliability
from dira_scale.judge.pages.tables.page import beside, latex, markdown
from dira_scale.judge.pages.tables.papers import PaperTable, figures
from dira_scale.judge.pages.tables.read import SweepRun, probe_tables, read_sweep
from dira_scale.sweep.records import SweepFolder

Sweep = tuple[Path, dict[tuple[str, float], list[float]]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    root = tmp_path_factory.mktemp("sweep")
    values = finished_sweep(root)
    assert report.main([f"folder={root}"]) == 0
    return root, values


def spread_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "spread.json").read_text())


def rows(root: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    with (root / "report.csv").open(newline="") as file:
        return {(row["table"], row["row"], row["column"]): row for row in csv.DictReader(file)}


def test_cells_are_the_runs_figures_and_their_twins(sweep: Sweep) -> None:
    root, values = sweep
    written = rows(root)
    for fraction in FRACTIONS:
        column, random = f"{100 * fraction:g} %", 100 * np.array(values["random", fraction])
        for start, n in (("random", 5), ("moco", 5), ("dira", 2)):
            row, own = written["tune", start, column], 100 * np.array(values[start, fraction])
            assert float(row["mean"]) == pytest.approx(own.mean()) and int(row["n"]) == n == len(own)
            assert float(row["sd"]) == pytest.approx(own.std(ddof=1))
            assert len(row["runs"].split()) == n and all(
                run.startswith(f"tune/{start}-") for run in row["runs"].split()
            )
            if start == "random":
                assert row["difference"] == row["twin_n"] == ""
            else:
                assert float(row["difference"]) == pytest.approx(own.mean() - random.mean()) and row["twin_n"] == "5"
                p = stats.ttest_ind(own, random, equal_var=False).pvalue
                assert float(row["p"]) == pytest.approx(p) and float(row["p_holm"]) >= float(row["p"])


def test_a_probes_twins_are_its_random_encoders(sweep: Sweep) -> None:
    root, _ = sweep
    content = json.loads((root / "probe" / "0123abcd" / "output" / "probe.json").read_text())
    values = {
        (f["encoder"], f["fraction"]): 100 * np.mean(f["values"], 1) for f in content["figures"] if f["label"] == "sick"
    }
    written = rows(root)
    for fraction, column in ((1.0, "100 %"), (0.1, "10 %")):
        for encoder in ("moco", "dira"):
            row, own = written["probe: sick", f"{encoder}, level 5", column], values[encoder, fraction]
            p = stats.ttest_ind(own, values["random", fraction], equal_var=False).pvalue
            assert float(row["mean"]) == pytest.approx(own.mean()) and float(row["p"]) == pytest.approx(p)
            assert float(row["difference"]) == pytest.approx(own.mean() - values["random", fraction].mean())
        assert written["probe: sick", "pixels 16x16", column]["difference"] == ""


def test_a_number_has_tables_of_r2(tmp_path: Path) -> None:
    content = probe_json([""] * 5, [""] * 5, [("R2", "age")], 1)
    content["figures"] += probe_json([""] * 5, [""] * 5, [("R2", "ef")], math.nan)["figures"]
    (tmp_path / "probe.json").write_text(json.dumps(content))
    sick, age = probe_tables(SweepRun("probe/a", "probe", tmp_path, []), [])
    assert (sick.title, sick.metric) == ("probe: sick", "AUROC of a linear probe, %")
    assert (age.title, age.metric) == ("probe: age", "R2 of a linear probe, %")
    assert age.cells.keys() == sick.cells.keys()
    for location, cell in age.cells.items():
        area = sick.cells[location]
        assert (cell.mean, cell.sd, cell.n) == (pytest.approx(area.mean - 100), pytest.approx(area.sd), area.n)
        assert (cell.twin is None) == (area.twin is None)
        assert cell.twin is None or asdict(cell.twin) == pytest.approx(asdict(area.twin), nan_ok=True)


def test_accuracies_of_a_probe_stand_in_a_papers_table(tmp_path: Path) -> None:
    """PCRL's pretext tasks: the task's first table, whose rows lose their level; the spread is over encoders."""
    content = probe_json([""] * 5, [""] * 5, [("accuracy", "sick")], 0.2)
    content["figures"] = [figure for figure in content["figures"] if figure["fraction"] == 1]
    (tmp_path / "probe.json").write_text(json.dumps(content))
    right, areas = probe_tables(SweepRun("rotation/a", "probe", tmp_path, []), [])
    assert (right.metric, areas.metric) == ("accuracy of a linear probe, %", "AUROC of a linear probe, %")
    each = {
        figure["encoder"]: 100 * np.ravel(figure["values"]) for figure in content["figures"]
        if figure["metric"] == "accuracy"
    }  # fmt: skip
    task = next(key[2] for key in figures() if key[:2] == ("PCRL", "Table 1") and "rotation" in key[2])
    rows = {"moco": "ContraLoss", "dira": "PCRL (all modules)", "random": "Random"}
    table = beside(PaperTable("PCRL", "Table 1", {"rotation": task}, rows), {"rotation": [right, areas]})
    assert table.rows == [*rows.values(), "pixels 16x16"] and table.baselines == ["Random", "pixels 16x16"]
    assert {row: figure.mean for (row, _), figure in table.published.items()} == {
        "ContraLoss": 85.5, "PCRL (all modules)": 93.2
    }  # fmt: skip
    for encoder, row in rows.items():
        cell = table.cells[row, f"{task}, 100 %"]
        assert (cell.mean, cell.sd) == pytest.approx((each[encoder].mean(), each[encoder].std(ddof=1)))
    p = stats.ttest_ind(each["moco"], each["random"], equal_var=False).pvalue
    twin = table.cells["ContraLoss", f"{task}, 100 %"].twin
    assert twin is not None and twin.p == pytest.approx(p)


def test_only_five_runs_and_a_twin_make_a_claim(sweep: Sweep) -> None:
    root, _ = sweep
    page = (root / "report.html").read_text()
    section = page[page.index("<h2>tune</h2>") :].partition("</table>")[0]
    lines = {name: section[section.index(f'<th scope="row">{name}') :] for name in ("random", "moco", "dira")}
    lines = {name: text[: text.index("</tr>")] for name, text in lines.items()}
    assert "<b>better</b>" in lines["moco"] and "<b>" not in lines["dira"] and "<b>" not in lines["random"]
    assert "p " in lines["dira"]  # figures are shown, nothing is claimed


@settings(max_examples=100)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(-9, 9), st.floats(0, 1) | st.just(float("nan")), st.booleans())
def test_the_rule_of_claims(n: int, of_twin: int, difference: float, p: float, has_twin: bool) -> None:
    cell = Cell(50.0, 1.0, n, twin=RandomTwin(of_twin, difference, p, p) if has_twin else None)
    allowed = has_twin and n >= 5 and of_twin >= 5 and p < 0.05
    assert bool(cell.verdict()) == allowed
    if allowed:
        assert cell.verdict() == ("better" if difference > 0 else "worse")
    table = Table("t", "m", ["r"], ["c"], {("r", "c"): cell})
    assert ("nothing is claimed" in table.claims()) == (not has_twin or min(n, of_twin) < 5)
    if not allowed:
        assert "better" not in markdown("s", [table]) + latex([table])


def test_the_papers_figures_stand_beside_ours(sweep: Sweep) -> None:
    root, values = sweep
    written = rows(root)
    first = written["DiRA, Table 1", "MoCo-v2", "ChestX-ray14, 1 %"]
    assert float(first["published"]) == 52.99 and first["published_sd"] == ""
    assert float(first["mean"]) == pytest.approx(100 * np.mean(values["moco", 0.01]))
    assert float(written["DiRA, Table 1", "DiRA_MoCo-v2", "ChestX-ray14, 1 %"]["published"]) == 59.39
    assert written["DiRA, Table 1", "Random", "ChestX-ray14, 1 %"]["published"] == ""
    page = (root / "report.html").read_text()
    assert "Haghighi et al." in page and page.index("<h2>DiRA, Table 1</h2>") < page.index("<h2>tune</h2>")


def test_a_page_is_whole_and_the_same_again(sweep: Sweep, tmp_path: Path) -> None:
    root, _ = sweep
    page = (root / "report.html").read_text()
    assert report.main([f"folder={root}", f"out={tmp_path / 'again.html'}"]) == 0
    for suffix in (".html", ".md", ".csv", ".tex"):
        assert (tmp_path / f"again{suffix}").read_bytes() == (root / f"report{suffix}").read_bytes()
    assert len(page) < 5_000_000 and "http" not in page.replace("http://www.w3.org", "")
    anchors = set(re.findall(r'id="([^"]+)"', page))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= anchors
    cells = re.findall(r'<td class="n"[^>]*>(.*?)</td>', page, re.DOTALL)
    assert sum("n 5" in cell for cell in cells) and all('<a href="#runs-' in cell for cell in cells if "n 5" in cell)
    assert "c0ffeec0ffee" in page and "<code>0000001f</code>" in page  # commit and hash of a configuration
    for title in ("tune, 1 %: a, ROC", "tune, 10 %: b, reliability", "<h3>tune</h3>", "<h3>probe: sick</h3>"):
        assert title in page


def test_a_reliability_curve_has_the_cases_of_every_probability() -> None:
    """Also those of which a run is certain. Cases of several runs count together; unknown ones do not."""
    axes = Figure().subplots()
    runs = [(np.array([1, 0, np.nan]), np.array([1, 0.02, 0.5])), (np.array([0, 1]), np.array([0.04, 0.96]))]
    _reliability(axes, {"moco": runs})
    np.testing.assert_allclose(axes.lines[0].get_xydata(), [[0.03, 0], [0.98, 1]])


def test_accuracies_at_thresholds_are_columns(tmp_path: Path) -> None:
    """The table of `localize`, whose runs are compared by ``accuracy NAME/THRESHOLD``."""
    members, spreads, comparisons = {}, [], []
    for start, n, mean in (("random", 10, 0.3), ("moco", 5, 0.5)):
        output = tmp_path / "boxes" / f"{start}-0123abcd" / "output"
        output.mkdir(parents=True)
        (output / "config.yaml").write_text("run: r\n")
        members[f"init={start}"] = {"keys": {"init": start}, "random": start == "random", "outputs": [str(output)]}
        spreads += [
            asdict(Spread(f"init={start}", metric, mean, 0.1, n, None, n, 0, None, 9, 1, share=True))
            for metric in ("accuracy mean/0.1", "accuracy mean/0.6", "accuracy Mass/0.1")
        ]  # fmt: skip
    test = Comparison("init=random", "init=moco", "accuracy mean/0.1", "runs", 10, 5, -0.2, 0.001, 0.001, 0.002, 0.002)
    comparisons.append(asdict(test))
    spread = {"boxes": {"members": members, "spreads": spreads, "comparisons": comparisons}}
    (tmp_path / "spread.json").write_text(json.dumps(spread))
    runs = [SweepRun(f"boxes/{start}-0123abcd", "localize", tmp_path, []) for start in ("random", "moco")]
    content = read_sweep("s", spread_of(tmp_path), runs, 2)
    mean, mass = content.tables["boxes"]
    assert (mean.metric, mean.columns) == ("accuracy mean, %", ["IoU ≥ 10 %", "IoU ≥ 60 %"])
    assert (mass.metric, mass.columns) == ("accuracy Mass, %", ["IoU ≥ 10 %"])
    cell = mean.cells["moco", "IoU ≥ 10 %"]
    assert cell.verdict() == "better" and cell.twin == RandomTwin(10, pytest.approx(20), 0.001, 0.002)
    assert mean.cells["moco", "IoU ≥ 60 %"].verdict() == ""  # without a test
    paper = PaperTable("DiRA", "Table 5", {"boxes": "ChestX-ray14 weakly-supervised localization"}, {"moco": "MoCo-v2"})
    table = beside(paper, content.tables)
    assert [figure.mean for figure in table.published.values()] == [54.89, 2.68]
    one_test = replace(cell, twin=RandomTwin(10, pytest.approx(20), 0.001, 0.001))
    assert table.cells["MoCo-v2", table.columns[0]] == one_test and table.baselines == ["random"]


def made_up_phase(
    root: Path, phase: str, metric: str, settings: dict[tuple[str, float], tuple[float, int]], tests: dict[str, float]
) -> list[SweepRun]:
    """Settings by (init, learning rate) with mean and n; ``tests``: p of a rate's moco against its random."""
    members, spreads = {}, []
    for (start, rate), (mean, n) in settings.items():
        output = root / phase / f"{start}-{rate}-0123abcd" / "output"
        output.mkdir(parents=True)
        (output / "config.yaml").write_text("data: {fraction: 0.5}\n")
        setting = f"init={start} lr={rate}"
        keys = {"init": start, "optim.optimizer.lr": rate}
        members[setting] = {"keys": keys, "random": start.startswith("random"), "outputs": [str(output)]}
        nobody = Interval(mean, math.nan, math.nan, 0.95, "percentile", 1, 0, 0)
        share = not metric.startswith("pooled")
        spreads.append(asdict(Spread(setting, metric, mean, 0.1, n, None, n, 0, nobody, 9, 1, share)))
    comparisons = [
        asdict(Comparison(f"init=moco lr={rate}", f"init=random lr={rate}", metric, "runs", 5, 5, 0.1, p, p, p, p))
        for rate, p in tests.items()
    ]
    path = root / "spread.json"
    content = json.loads(path.read_text()) if path.is_file() else {}
    content[phase] = {"members": members, "spreads": spreads, "comparisons": comparisons}
    path.write_text(json.dumps(plain(content)))
    return [SweepRun(f"{phase}/{o['outputs'][0].split('/')[-2]}", "finetune", root, []) for o in members.values()]


def test_a_twin_has_the_same_settings(tmp_path: Path) -> None:
    """A grid of starts and learning rates: each rate has random runs of its own, which have no twin, not even in other
    random runs. An interval may be unknown."""
    means = {("random, half", 0.1): 0.7, ("moco", 0.1): 0.6, ("moco", 0.01): 0.9, ("random", 0.1): 0.5}
    figures = {key: (mean, 5) for key, mean in (means | {("random", 0.01): 0.88}).items()}
    runs = made_up_phase(tmp_path, "tune", "AUROC mean", figures, {0.1: 0.01, 0.01: 0.4})
    (table,) = read_sweep("s", spread_of(tmp_path), runs, 5).tables["tune"]
    cells = {row: table.cells[row, "50 %"] for row in table.rows}
    assert cells["moco, optim.optimizer.lr=0.1"].twin == RandomTwin(5, pytest.approx(10), 0.01, 0.01)
    assert cells["moco, optim.optimizer.lr=0.01"].twin == RandomTwin(5, pytest.approx(2), 0.4, 0.4)
    assert len(table.rows) == 5 and all((cells[row].twin is None) == row.startswith("random") for row in table.rows)
    assert len(table.baselines) == 2
    assert all(cell.interval is None for cell in cells.values())


def test_the_share_of_labels_is_that_of_the_run_that_is_looked_at(tmp_path: Path) -> None:
    runs = made_up_phase(tmp_path, "boxes", "accuracy mean/0.1", {("moco", 1): (0.6, 5), ("random", 1): (0.5, 5)}, {})
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.yaml").write_text("data: {fraction: 0.01}\n")
    for config in tmp_path.glob("boxes/*/output/config.yaml"):
        config.write_text(f"run: {tuned}\n")
    (table,) = read_sweep("s", spread_of(tmp_path), runs, 2).tables["boxes"]
    assert table.fractions == {"1 %, IoU ≥ 10 %": 0.01}


def test_a_papers_table_corrects_over_itself_and_compares_one_metric(tmp_path: Path) -> None:
    figures = {("moco", 1): (0.6, 5), ("random", 1): (0.5, 5)}
    runs = made_up_phase(tmp_path, "chest", "AUROC mean", figures, {1: 0.03})
    runs += made_up_phase(tmp_path, "lungs", "IoU mean", figures, {1: 0.04})
    tables = read_sweep("s", spread_of(tmp_path), runs, 4).tables
    tasks = {"chest": "ChestX-ray14", "lungs": "NIH Montgomery"}
    table = beside(PaperTable("DiRA", "Table 1", tasks, {"moco": "MoCo-v2"}), tables)
    location = "MoCo-v2, optim.optimizer.lr=1", "ChestX-ray14, 50 %"
    assert [cell.twin.p_holm for cell in table.cells.values() if cell.twin] == pytest.approx([0.06, 0.06])  # 2 x 0.03
    own = tables["chest"][0].cells["moco, optim.optimizer.lr=1", "50 %"]
    assert table.cells[location].verdict() == "" and own.verdict() == "better"
    published = beside(
        PaperTable("DiRA", "Table 1", tasks, {"moco, optim.optimizer.lr=1": "MoCo-v2"}), tables
    ).published
    assert not any("Montgomery" in column for _, column in published)
    assert "the paper has Dice, which is not computed here; ours is IoU" in table.notes[1]
    assert table.metric == "Published and ours, %: AUC of ChestX-ray14, IoU of NIH Montgomery"


def test_pooled_figures_stand_beside_the_papers(tmp_path: Path) -> None:
    """DiRA's IoU of volumes is of the voxels of all cases together."""
    figures = {("dira_transvw", 1): (0.6, 5), ("random", 1): (0.5, 5)}
    runs = made_up_phase(tmp_path, "lits", "pooled IoU mean", figures, {1: 0.03})
    tables = read_sweep("s", spread_of(tmp_path), runs, 2).tables
    rows = {"dira_transvw": "DiRA_TransVW", "random": "Random"}
    table = beside(PaperTable("DiRA", "Table 3", {"lits": "LiTS"}, rows), tables)
    assert table.metric == "Published and ours, %: IoU" and len(table.notes) == 1 and len(table.cells) == 2


def test_two_results_of_one_place_are_refused() -> None:
    given = {**TABLES[0], "rows": {"moco": "MoCo-v2", "dira": "MoCo-v2"}}
    cell = Cell(50.0, 1.0, 5)
    tables = {"tune": [Table("tune", "AUROC mean, %", ["moco", "dira"], ["1 %"],
                             {("moco", "1 %"): cell, ("dira", "1 %"): cell}, fractions={"1 %": 0.01})]}  # fmt: skip
    with pytest.raises(UserError, match="two results for MoCo-v2, ChestX-ray14, 1 %"):
        beside(PaperTable(**given), tables)


def test_latex_has_no_character_that_latex_reads_otherwise() -> None:
    cell = Cell(50.0, 1.0, 5, twin=RandomTwin(5, 2.0, 1e-5, 1e-4))
    table = Table("t", "m", ["a~b^c\\d_e"], ["IoU ≥ 10 %", "A->B"], {("a~b^c\\d_e", "A->B"): cell})
    lines = latex([table]).splitlines()
    assert r" & IoU $\geq$ 10 \% & A-$>$B \\" in lines[3]
    assert lines[5] == (
        r"a\textasciitilde{}b\textasciicircum{}c\textbackslash{}d\_e & -- & "
        r"50.0 $\pm$ 1.0 (n 5; +2.0, p $<$ 0.001, better) \\"
    )


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is most of a page's time."""
    monkeypatch.setattr("dira_scale.judge.pages.tables.figures.svg", lambda *_: "<svg></svg>")


@pytest.mark.usefixtures("undrawn")
def test_damaged_probes_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """One that cannot be read is left out of the report, and one whose figures make no table out of the tables."""
    finished_sweep(tmp_path, 1, 1)
    whole = json.loads((tmp_path / "probe" / "0123abcd" / "output" / "probe.json").read_text())
    unreadable = ["{", "7", '{"config": {}, "figures": [[]]}']
    unreadable.append(json.dumps(whole | {"compared": 7}))
    tableless = [json.dumps(whole | {"compared": [of | {"members": [{"run": 7}]} for of in whole["compared"]]})]
    folder = SweepFolder(tmp_path)
    for number, text in enumerate(unreadable + tableless):
        output = folder.output(add(folder, "probe", f"{number}", "probe", {}))
        output.mkdir(parents=True)
        (output / "probe.json").write_text(text)
    assert report.main([f"folder={tmp_path}"]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    for number in range(len(unreadable)):
        assert f"not in the report: probe/{number} cannot be read" in printed
    for number in range(len(unreadable), len(unreadable + tableless)):
        assert f"not in the tables: probe/{number} cannot be read" in caplog.text
    assert "Missing: 4 runs;" in page and "<h2>probe: sick</h2>" in page  # the whole one's


@pytest.mark.usefixtures("undrawn")
def test_unfinished_sweeps_are_said_to_be(tmp_path: Path) -> None:
    finished_sweep(tmp_path, moco=1, dira=1)
    folder = SweepFolder(tmp_path)
    missing = next(run for run in folder.runs if run.startswith("dira/"))
    for file in (tmp_path / missing / "tries").glob("*.json"):
        file.unlink()
    assert report.main([f"folder={tmp_path}"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Missing: 1 run;" in page and "<b>better" not in page


def test_what_is_no_sweep_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished_sweep(tmp_path, 1, 1)
    assert report.main([f"folder={tmp_path}", f"out={tmp_path / 'x.pdf'}"]) == 2
    assert "expected NAME.html" in capsys.readouterr().err
    for file in tmp_path.glob("*/*/tries/*.json"):
        file.unlink()
    assert report.main([f"folder={tmp_path}"]) == 2
    assert "none of its" in capsys.readouterr().err


def test_published_figures_are_those_of_the_papers() -> None:
    assert len(figures()) == 355
    table = PaperTable(**TABLES[0])
    assert table.figure("ChestX-ray14", "MoCo-v2", 0.25) == Published(74.89, None)
    assert table.figure("ChestX-ray14", "MoCo-v2", 1.0) is None
    task = "ChestX-ray14 weakly-supervised localization"
    five = PaperTable("DiRA", "Table 5", {"boxes": task}, {"moco": "MoCo-v2"})
    assert five.figure(task, "MoCo-v2", 1.0, "IoU ≥ 20 %") == Published(39.43, None)
    four = PaperTable("DiRA", "Table 4", {"chest": "ChestX-ray14"}, {"moco": "MoCo-v2 [Ldis]"})
    assert four.figure("ChestX-ray14", "MoCo-v2 [Ldis]", 1.0) == Published(80.36, 0.26)
    with pytest.raises(UserError, match=r"tables.rows=MoCo: there are .*did you mean 'MoCo-v2'"):
        PaperTable(**{**TABLES[0], "rows": {"moco": "MoCo"}})
    with pytest.raises(UserError, match=r"tables.table=Table 9"):
        PaperTable(**{**TABLES[0], "table": "Table 9"})
