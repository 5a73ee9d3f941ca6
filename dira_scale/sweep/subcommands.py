"""``sweep status``, ``logs``, ``cancel``, ``retry``, ``results``: each works on the records of a sweep's folder."""

import json
from pathlib import Path

from omegaconf import DictConfig

from dira_scale.machine.console import Console
from dira_scale.runs.exit_codes import DONE, FAILED
from dira_scale.sweep.records import SweepFolder


def status(cfg: DictConfig) -> int:
    """State, step, loss, speed, time to go, node, tries; watch=5: every 5 seconds; json=true: for programs."""
    from dira_scale.sweep.table import as_json, show

    folder = SweepFolder(Path(cfg.folder))
    if cfg.json:
        statuses, content = as_json(folder)
        print(json.dumps(content, indent=2))
    else:
        statuses = show(folder, Console(), cfg.watch)
    states = {status.state for status in statuses.values()}
    return FAILED if states & {"failed", "blocked", "lost"} else DONE


def logs(cfg: DictConfig) -> int:
    """The last lines of what runs printed; of those that failed unless runs=… names others."""
    from dira_scale.sweep.logs import show_logs

    show_logs(SweepFolder(Path(cfg.folder)), _patterns(cfg), cfg.lines)
    return DONE


def cancel(cfg: DictConfig) -> int:
    """End runs, after a checkpoint; all that could still run unless runs=… names some."""
    from dira_scale.sweep.cancel import cancel as end

    ids = end(SweepFolder(Path(cfg.folder)), _patterns(cfg))
    print("\n".join([*(f"cancelled: {run_id}" for run_id in ids), f"{len(ids)} runs cancelled"]))
    return DONE


def retry(cfg: DictConfig) -> int:
    """Start those again that failed or were lost, and what they kept from starting; or the cancelled ones in runs=…."""
    from dira_scale.sweep.start import start_again

    return start_again(SweepFolder(Path(cfg.folder)), _patterns(cfg), cfg.detach)


def results(cfg: DictConfig) -> int:
    """Write all final figures of the runs that are done, as .parquet and .md; of `finetune`, show their table."""
    from dira_scale.sweep.results import write_results

    print("\n".join(write_results(Path(cfg.folder), show=True).lines))
    return DONE


def _patterns(cfg: DictConfig) -> list[str]:
    return [cfg.runs] if isinstance(cfg.runs, str) else list(cfg.runs or [])
