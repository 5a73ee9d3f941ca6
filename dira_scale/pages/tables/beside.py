"""A sweep's cells in the places that they have in a paper's table."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dira_scale.errors import UserError
from dira_scale.metrics.statistics.significance import holm
from dira_scale.pages.tables.cells import Cell, Table
from dira_scale.pages.tables.papers import CITATIONS, PaperTable

THEIRS = {"AUROC": "AUC", "accuracy": "Accuracy"}  # our names of metrics, where papers have others
Cells = Mapping[tuple[str, str], Cell]


def beside(paper: PaperTable, tables: Mapping[str, Sequence[Table]]) -> Table:
    """The paper's tasks, rows and shares of the labels, with its figures and ours; ours alone where it has none, or has
    another metric. p is corrected for all tests of this table.

    Args:
        tables: of the sweep, by phase.

    Raises:
        UserError: two of our cells have one cell of the paper's table.
    """
    cells, published, fractions, metrics, notes = dict[tuple[str, str], Cell](), {}, {}, dict[str, str](), list[str]()
    rows, baselines = dict.fromkeys(paper.rows.values()), dict[str, None]()
    for phase, task in paper.tasks.items():
        for table in tables.get(phase, [])[:1]:  # the task's metric is the first; of localization the mean over labels
            ours, theirs = table.metric.replace(",", " ").split()[0], paper.metric(task)
            metrics[task] = THEIRS.get(ours, ours)
            if metrics[task] != theirs:
                notes.append(f"{task}: the paper has {theirs}, which is not computed here; ours is {metrics[task]}.")
            for column in table.columns:
                heading = f"{task}, {column}"
                fractions[heading] = table.fractions.get(column, 1.0)
                for row in (row for row in table.rows if (row, column) in table.cells):
                    name = _named(row, paper)
                    rows[name] = None
                    if (name, heading) in cells:
                        raise UserError(
                            f"tables: {paper.paper}, {paper.table}: two results for {name}, {heading}: name one phase "
                            "a task, and one phase or value of init a row"
                        )
                    cells[name, heading] = table.cells[row, column]
                    baselines |= {name: None} if row in table.baselines else {}
                for name in rows:
                    figure = paper.figure(task, name, fractions[heading], column)
                    if figure and metrics[task] == theirs:
                        published[name, heading] = figure
    columns = [*fractions]
    kept = [name for name in rows if any((name, heading) in {**cells, **published} for heading in columns)]
    note = (
        f"Published: {CITATIONS[paper.paper]}, {paper.table}. Other data, other seeds: read differences between rows."
    )
    return Table(
        f"{paper.paper}, {paper.table}", f"Published and ours, %: {_listed(metrics)}", kept, columns, _corrected(cells),
        [*baselines], fractions, published, [note, *notes],
    )  # fmt: skip


def _listed(metrics: Mapping[str, str]) -> str:
    """``AUC``, or ``AUC of CheXpert and ChestX-ray14, Dice of NIH Montgomery``."""
    kinds = dict.fromkeys(metrics.values())
    return ", ".join(
        kind if len(kinds) == 1 else f"{kind} of {' and '.join(task for task, its in metrics.items() if its == kind)}"
        for kind in kinds
    )


def _corrected(cells: Cells) -> Cells:
    """With Holm's correction over all their tests: they come from phases that were corrected one by one."""
    twins = [(heading, cell, cell.twin) for heading, cell in cells.items() if cell.twin]
    adjusted = holm([twin.p for _, _, twin in twins])
    changed = {
        heading: replace(cell, twin=replace(twin, p_holm=float(p)))
        for (heading, cell, twin), p in zip(twins, adjusted, strict=True)
    }
    return {**cells, **changed}


def _named(row: str, paper: PaperTable) -> str:
    """As the paper calls what the row starts from: a phase, or a value of ``init``. What stands behind it stays."""
    start, comma, rest = row.partition(", ")
    theirs = paper.rows.get(start) or paper.rows.get(start.partition("/")[0])
    return f"{theirs}{comma}{rest}" if theirs else row
