"""``python -m dira_scale.report run=out/runs/demo``: a self-contained HTML page about a run, finished or not.

torch is imported inside the function: a typing mistake is named within a second.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dira_scale.config.compose import defaults, run_verb
from dira_scale.errors import UserError
from dira_scale.places.atomic import as_user_error, write_atomic
from dira_scale.verbs import VERBS


def report(config: DictConfig) -> None:
    """Read ``config.run``, write the page to ``config.out``."""
    from dira_scale.reporting.content import read_run
    from dira_scale.reporting.page import render

    folder = Path(config.run)
    run = read_run(folder)
    verb = run.description.verb
    verb_defaults: Any = OmegaConf.to_container(defaults(verb)) if verb in VERBS else {}
    out = Path(config.out or folder / "report.html")
    if not out.parent.is_dir():
        raise UserError(f"out={out}: no such folder: {out.parent}")
    page = render(run, verb_defaults)
    with as_user_error(out, "out"):
        write_atomic(out, page)
    for text in run.missing:
        print(f"not in the report: {text}")
    print(f"report: {out.resolve()}")


def main(argv: list[str] | None = None) -> int:
    """The verb."""
    return run_verb("report", report, argv)


if __name__ == "__main__":
    raise SystemExit(main())
