"""``precision=auto``: chosen by the hardware when a run begins, and kept by the run wherever it goes on."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from train.engine.regression import train

from dira_scale.base.config.compose import compose
from dira_scale.train.distributed import precision
from dira_scale.train.distributed.precision import choose
from dira_scale.train.runs.identity import execution, run_name

EXECUTION = execution("pretrain")


@pytest.mark.parametrize(("flags", "expected"), [((), "fp32"), (("avx512_bf16",), "bf16"), (("amx_bf16",), "bf16")])
def test_on_a_cpu_its_instructions_decide(
    flags: tuple[str, ...], expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: flags)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto") == expected and not caplog.records
    assert choose("fp16") == "fp16" and "precision=fp16 on a CPU" in caplog.text


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 0), "fp32"), ((7, 5), "fp32"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_on_a_gpu_its_capability_decides(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: ())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert choose("auto") == expected


def machine(monkeypatch: pytest.MonkeyPatch, bf16: bool) -> None:
    monkeypatch.setattr(precision, "cpu_bf16", lambda: ("avx512_bf16",) if bf16 else ())


def config(run: Path) -> dict[str, object]:
    content: dict[str, object] = yaml.safe_load((run / "config.yaml").read_text())
    return content


@pytest.mark.parametrize("begun_with_bf16", [True, False])
def test_a_run_keeps_its_choice_on_another_machine(
    begun_with_bf16: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    used = "bf16" if begun_with_bf16 else "fp32"
    for steps, bf16 in ((7, begun_with_bf16), (9, not begun_with_bf16)):
        machine(monkeypatch, bf16)
        assert train(str(tmp_path), "ddp", steps, precision="auto") == 0
        assert (config(tmp_path)["precision"], config(tmp_path)["precision_used"]) == ("auto", used)
        assert f", {used}\n" in capsys.readouterr().out
    elsewhere = config(tmp_path) | {"precision_used": "another"}
    assert run_name(elsewhere, EXECUTION) == run_name(config(tmp_path), EXECUTION)


def test_a_run_that_began_with_a_precision_of_its_own_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, True)
    assert train(str(tmp_path), "ddp", 7, precision="fp32") == 0
    name = run_name(config(tmp_path), EXECUTION)
    assert train(str(tmp_path), "ddp", 9, precision="auto") == 0
    assert (config(tmp_path)["precision"], config(tmp_path)["precision_used"]) == ("fp32", "fp32")
    assert run_name(config(tmp_path), EXECUTION) == name


def test_another_precision_than_the_runs_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert train(str(tmp_path), "ddp", 7, precision="auto") == 0
    assert train(str(tmp_path), "ddp", 9, precision="tf32") == 2
    assert "precision: auto -> tf32" in caplog.text


def test_a_plan_is_for_gpus_that_have_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, False)
    planned: Any = OmegaConf.to_object(compose("plan", ["experiment=small"]))
    assert planned.precision == "bf16"
