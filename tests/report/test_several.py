"""The page of several runs: each figure's curves in one picture, and what differs."""

import json
import re
import shutil
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from made_up_run import finished_run, metrics
from recorded import record

from dira_scale import report
from dira_scale.base.errors import UserError
from dira_scale.report.several import names


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of ``a`` and ``b`` of other settings, machine and base, with larger losses, a warning, a monitor."""
    root = tmp_path_factory.mktemp("several")
    runs = [root / name / "output" for name in ("a", "b")]
    runs[0].parent.mkdir()
    shutil.move(finished_run(root), runs[0])
    shutil.copytree(runs[0], runs[1])
    config = yaml.safe_load((runs[1] / "config.yaml").read_text())
    config["seed"], config["data"]["batch"], config["run"] = 7, 128, str(runs[1])
    config["trust"] = [{"a": 1, "b": [2.5, None]}]
    record(runs[1], config)
    described = (runs[1] / "description.json").read_text()
    assert "Discrimination (MoCo)" in described
    (runs[1] / "description.json").write_text(described.replace("Discrimination (MoCo)", "Discrimination (BYOL)"))
    environment = json.loads((runs[1] / "environment.json").read_text())
    (runs[1] / "environment.json").write_text(json.dumps(environment | {"torch": "9.9", "host": "ward8"}))
    rows = [row | {"loss/di": 2 * row["loss/di"]} if "loss/di" in row else row for row in metrics()]
    rows[-1] |= {"warnings": ["collapse: <of b>"], "health/rank": 1.5, "health/std": 0.5}
    rows[-3] |= {"health/rank": 2.5, "health/std": 0.5}
    (runs[1] / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert report.main([f"run=[{runs[0]},{runs[1]}]", f"out={root / 'two.html'}"]) == 0
    return (root / "two.html").read_text()


def cells(page: str, heading: str) -> list[str]:
    """The texts of a table's row."""
    row = page[page.index(heading) :].partition("</tr>")[0]
    found = re.findall(r"<td.*?>(.*?)</td>", row, re.DOTALL)
    return [" ".join(unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in found]


def test_what_differs_stands_side_by_side(page: str) -> None:
    settings = page[page.index("Settings that differ: ") :].partition("</table>")[0]
    assert re.findall(r"<code>(.*?)</code>", settings) == ["data.batch", "seed", "trust"]
    assert cells(settings, "<code>trust</code>") == ["null", "[{a: 1, b: [2.5, null]}]"]  # as they are typed
    assert page.index(settings) > page.index("Curves</h2>") and "<details>" in page[: page.index(settings)][-50:]
    assert cells(settings, "<code>seed</code>") == ["0", "7"] and cells(settings, "data.batch") == ["64", "128"]
    machines = page[page.index("Machines and versions that differ: ") :].partition("</table>")[0]
    assert cells(machines, "<code>torch</code>") == ["2.13.0+cpu", "9.9"] and "ward" not in page
    head = re.findall(r'<th scope="col"[^>]*>(?:<span.*?</span>)?(.*?)</th>', settings)
    assert head == ["setting", "a", "b"]


def test_last_figures_and_warnings_stand_side_by_side(page: str) -> None:
    assert cells(page, '<th scope="row">warnings</th>') == ["none", "step 150 (dira): collapse: <of b>"]
    one, other = cells(page, '<th scope="row">run</th>')
    assert "150 steps" in one and "fair" in other and "fair" not in one
    assert cells(page, '<th scope="row">discrimination</th>') == 2 * [
        "24 × chance ✓ good finding an image's other view (top-1)"
    ]
    none, rank = cells(page, '<th scope="row">embeddings</th>')
    assert none == "–" and rank.startswith("rank 1.5")


def test_each_figure_is_one_picture_with_a_line_a_run(page: str) -> None:
    figures = re.findall(r"<figure><h3>(.*?)</h3>(<svg.*?</svg>)\s*<ul(.*?)</ul>", page, re.DOTALL)
    titles = [unescape(title) for title, *_ in figures]
    assert "Learning rate" in titles and titles[-1] == "Effective rank" and len({*titles}) == len(titles) > 6
    for title, drawing, keys in figures:
        ElementTree.fromstring(drawing)
        assert re.findall(r"</span>(\w+)</li>", keys) == ["a", "b"], title
    (rank,) = [drawing for title, drawing, _ in figures if title == "Effective rank"]
    assert "--plot-2" in rank and "--plot-1" not in rank  # b alone has it, in b's colour
    drawn = {title: {key for key in ("--plot-1", "--plot-2") if key in drawing} for title, drawing, _ in figures}
    assert drawn["Learning rate"] == {"--plot-1", "--plot-2"}
    assert drawn["Discrimination (MoCo)"] == {"--plot-1"} and drawn["Discrimination (BYOL)"] == {"--plot-2"}


def test_names_tell_runs_apart() -> None:
    assert names([Path("out/a"), Path("out/b")]) == ["a", "b"]
    assert names([Path("s/x/seed0/output"), Path("s/x/seed1/output")]) == ["seed0", "seed1"]
    assert names([Path("s/moco/seed0/output"), Path("s/dira/seed1/output")]) == ["moco/seed0", "dira/seed1"]
    assert names([Path("out/a"), Path("out/a/b"), Path("out/abc")]) == ["a", "a/b", "abc"]
    assert names([Path("out/a")]) == ["a"]
    assert names([Path("/home/alice/p/a"), Path("/scratch/b")]) == ["a", "b"]  # and nobody's name
    assert names([Path("/home/alice/a/run"), Path("/scratch/a/run"), Path("/x/run")]) == ["alice/a", "scratch/a", "x"]
    with pytest.raises(UserError, match="there twice"):
        names([Path("out/a"), Path("out/../out/a")])


def test_several_runs_need_a_file_and_lines_that_can_be_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run(tmp_path)
    copies = [shutil.copytree(run, tmp_path / str(n)) for n in range(12)]
    assert report.main([f"run=[{run},{copies[0]}]"]) == 2
    assert "out must be given for several runs" in capsys.readouterr().err
    listed = ",".join(map(str, [run, *copies]))
    assert report.main([f"run=[{listed}]", f"out={tmp_path / 'x.html'}"]) == 2
    assert "13 runs; the lines of at most 12" in capsys.readouterr().err
