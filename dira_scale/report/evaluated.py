"""Of a run that was evaluated: ROC curves of its labels, masks of some cases, classes that it never answers."""

from base64 import b64encode
from functools import partial

from dira_scale.metrics.cases import LabelCase, label_arrays, read_cases
from dira_scale.pixels.outlines import COLOURS
from dira_scale.report.content import RunContent
from dira_scale.storage.owned import is_inside

MOST = 12  # curves of a plot


def roc(run: RunContent) -> object | None:
    """The test split's ROC curve of each label, those with most positives; None of masks, or without a curve."""
    path = run.folder / "cases" / "test.parquet"
    cases = read_cases(path) if is_inside(path, run.folder) and path.is_file() else []
    labels = [case for case in cases if isinstance(case, LabelCase)]
    if not labels:
        return None
    from dira_scale.pages.tables import figures  # lazy: takes seconds

    targets, scores, names, _ = label_arrays(labels)
    drawable = [i for i in range(len(names)) if {0, 1} <= {*targets[:, i].tolist()}]
    chosen = sorted(drawable, key=lambda i: -(targets[:, i] == 1).sum())[:MOST]
    of = {names[i]: [(targets[:, i], scores[:, i])] for i in sorted(chosen)}
    if not of:
        return None
    drawing = figures.svg("ROC curves of the test split", partial(figures.roc, of=of))
    return figures.Plot("ROC", drawing, figures.keys([*of]))


def cases(run: RunContent) -> list[str]:
    """Data URLs of the pictures of cases."""
    found = sorted((run.folder / "cases").glob("test-*.jpg"))
    inside = [path for path in found if is_inside(path, run.folder)]
    return ["data:image/jpeg;base64," + b64encode(path.read_bytes()).decode() for path in inside]


def case_keys(run: RunContent) -> str:
    """Names of classes with their colours."""
    names = [name for name in run.description.output.names if name != "background"]
    return ", ".join(f"{name} {colour}" for name, colour in zip(names, [*COLOURS] * len(names), strict=False))


def warnings(run: RunContent) -> list[str]:
    """A line for the classes that are never answered on the test split."""
    names = run.results.get("never_answered", {}).get("test", [])
    return [f"never answered on the test split: {', '.join(names)}"] if names else []
