"""``sweep=dira_table5``: what it would start, checked as before a start."""

from pathlib import Path

import pytest
import yaml

from dira_scale.sweep import main

ROOT = Path(__file__).parents[2]


@pytest.mark.system
def test_the_papers_sweep_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With one seed of each phase: seeds do not decide whether a configuration is right."""
    monkeypatch.chdir(tmp_path)
    phases = yaml.safe_load((ROOT / "slurm" / "sweep" / "dira_table5.yaml").read_text())["phases"]
    seeds = {name: phase["seeds"] for name, phase in phases.items() if "seeds" in phase}
    assert seeds == {"pretrain": 5, "tune": 2, "random": 10}
    few = [f"sweep.phases.{name}.seeds=1" for name in seeds]
    assert main(["sweep=dira_table5", f"shards.recipe.images={tmp_path}", "dry_run=true", *few]) == 0
    said = capsys.readouterr().out
    counts = {"shards": "1 run", "pretrain": "6 runs", "tune": "6 runs", "random": "1 run"}
    for phase, count in (counts | {"localize": "6 runs", "localize_random": "1 run"}).items():
        assert f"{phase}: {count} to start" in said
