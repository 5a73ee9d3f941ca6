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
    """With one seed of each pretraining: seeds do not decide whether a configuration is right."""
    monkeypatch.chdir(tmp_path)
    phases = yaml.safe_load((ROOT / "slurm" / "sweep" / "dira_table5.yaml").read_text())["phases"]
    methods = phases["tune"]["for_all"]
    assert len(methods) == 6 and {phases[method]["seeds"] for method in methods} == {5}
    assert [item["init"] for item in phases["tune"]["list"]].count("random") == 10
    few = [f"sweep.phases.{method}.seeds=1" for method in methods]
    assert main(["sweep=dira_table5", f"shards.recipe.images={tmp_path}", "dry_run=true", *few]) == 0
    printed = capsys.readouterr().out
    for phase, count in {"shards": "1 run", "dira_moco": "1 run", "tune": "22 runs", "localize": "22 runs"}.items():
        assert f"{phase}: {count} to start" in printed
