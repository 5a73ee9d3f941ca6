"""The doctor's words, against fakes of the tools that it asks and of the machines that it may stand on."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from io import StringIO
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from dira_scale import doctor
from dira_scale.base.machine import hardware as looking
from dira_scale.base.machine import install
from dira_scale.base.machine import inventory as software
from dira_scale.base.machine.hardware import Gpu, Hardware, hardware
from dira_scale.base.machine.inventory import Component
from dira_scale.doctor.survey import as_typed, launch_command, show

LAPTOP = Hardware((), "a CPU", 6, 12, ("avx512_bf16",), 16.0, 10.0, 100.0)
H100 = Gpu("NVIDIA H100", 80.0, "570.86", 9.0)
V100 = Gpu("Tesla V100", 16.0, "535.10", 7.0)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that comes first on PATH."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def test_hardware_is_within_what_the_system_reports() -> None:
    here = hardware()
    assert 1 <= here.cores <= here.threads <= (os.cpu_count() or 1)
    assert 0 < here.free_memory_gib <= here.memory_gib <= psutil.virtual_memory().total / 2**30
    assert here.free_disk_gib > 0


def test_a_containers_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looking, "CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    (tmp_path / "cpu.max").write_text("350000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**30}\n")
    (tmp_path / "memory.current").write_text(f"{2**29}\n")
    here = hardware()
    assert here.threads == 3
    assert here.memory_gib == 1
    assert here.free_memory_gib <= 0.5
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert hardware().threads == 64


@pytest.mark.parametrize(
    ("script", "gpus", "shown"),
    [
        ('echo "NVIDIA H100, 81920, 570.86, 9.0"; echo "Tesla V100, 16384, 535.10, 7.0"', (H100, V100), "80 GiB"),
        (
            'echo "NVIDIA GB10, [N/A], 580.95, 12.1"; echo "Odd, one, 8192, 580.95, [N/A]"',
            (Gpu("NVIDIA GB10", None, "580.95", 12.1), Gpu("Odd, one", 8.0, "580.95", None)),
            "NVIDIA GB10, memory not reported, driver 580.95",
        ),
        (
            "echo no devices were found; exit 6",
            (),
            "none shown by the NVIDIA driver (nvidia-smi: no devices were found",
        ),
        ("exec sleep 60", (), "none shown by the NVIDIA driver (nvidia-smi did not answer"),
    ],
    ids=["two", "unknown figures", "failing", "hanging"],
)
def test_gpus_are_read_from_the_driver(
    script: str, gpus: tuple[Gpu, ...], shown: str, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looking, "ANSWER_SECONDS", 0.2 if "sleep" in script else 60)
    fake(tools, "nvidia-smi", script)
    here, text = hardware(), StringIO()
    show(here, [], [], Console(file=text, width=200, no_color=True))
    assert here.gpus == gpus and shown in text.getvalue()


def test_one_process_without_gpus_and_one_for_each_gpu() -> None:
    alone, several = launch_command(cuda=0), launch_command(cuda=8)
    assert [words[words.index("--num_processes") + 1] for words in (alone, several)] == ["1", "8"]
    assert "--multi_gpu" not in alone and as_typed(alone) == ["python", *alone[-2:]]
    assert "--multi_gpu" in several and as_typed(several) == several


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="process groups over gloo are started on Linux only")
@pytest.mark.system
def test_the_launch_command_starts_one_group_of_processes(tmp_path: Path) -> None:
    """The printed command is really typed, with a small module in the place of pretraining."""
    (tmp_path / "ranks.py").write_text(
        "from pathlib import Path\n"
        "from torch import distributed\n"
        "distributed.init_process_group('gloo')\n"
        "Path(f'rank {distributed.get_rank()} of {distributed.get_world_size()}').touch()\n"
        "distributed.destroy_process_group()\n"
    )
    words = launch_command(cuda=2)
    words[words.index("accelerate")] = str(Path(sys.executable).with_name("accelerate"))
    words[words.index("dira_scale.pretrain")] = "ranks"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    environment.pop("OMP_NUM_THREADS", None)
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "OMP_NUM_THREADS" not in done.stderr  # the launcher's notice
    assert sorted(path.name for path in tmp_path.glob("rank *")) == ["rank 0 of 2", "rank 1 of 2"]


@pytest.mark.system
def test_a_stopped_run_is_no_error_of_the_launchers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exit code, as the process whose launcher it is would end with, and no traceback."""
    from accelerate.commands import accelerate_cli

    (tmp_path / "stopped.py").write_text("raise SystemExit(75)")
    words = launch_command(cuda=0)
    words[words.index("dira_scale.pretrain")] = "stopped"
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        accelerate_cli.main()
    assert isinstance(ended.value.code, int) and ended.value.code != 0
    assert "Traceback" not in capfd.readouterr().err


def test_a_missing_package_comes_with_its_command() -> None:
    component = software._package("Nothing", "nothing at all", "no-such-distribution", "deepspeed")
    assert (component.state, component.detail) == ("missing", "")
    assert component.install.endswith("python3 setup/install.py deepspeed")


def test_a_gpu_that_torch_cannot_use_is_a_broken_torch_and_outside_a_checkout_pip_repairs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(software.torch.cuda, "is_available", lambda: False)
    assert software._torch(LAPTOP).state == "there"
    component = software._torch(replace(LAPTOP, gpus=(H100,)))
    assert component.state == "broken" and "ACCELERATOR=cuda make setup" in component.install
    monkeypatch.setattr(install, "CHECKOUT", tmp_path)
    assert "pip install 'dira_scale[dali]' torch==" in install.install_command("dali")
    command = software._torch(replace(LAPTOP, gpus=(H100,))).install
    assert "pip install --force-reinstall torch==" in command
    assert str(tmp_path) not in command and "make" not in command


def test_a_package_that_cannot_be_imported_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "halfthere.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / "halfthere-1.2.dist-info").mkdir()
    (tmp_path / "halfthere-1.2.dist-info" / "METADATA").write_text("Name: halfthere\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    component = software._package("halfthere", "half", "halfthere")
    assert component.state == "broken"
    assert "libGL.so.1" in component.detail


def test_slurm_is_asked_not_guessed(tools: Path) -> None:
    fake(tools, "sbatch", "exit 0")
    fake(tools, "sinfo", "echo 'gpu* 4 gpu:8'; echo 'cpu 2 (null)'")
    component = software._slurm()
    assert (component.state, component.detail) == ("there", "gpu* 4 gpu:8; cpu 2 (null)")
    fake(tools, "sinfo", "echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    component = software._slurm()
    assert component.state == "broken"
    assert "Unable to contact" in component.detail


@pytest.mark.system
def test_what_the_default_set_installs_is_found() -> None:
    """By the command that a user types, which imports every package in a fresh process."""
    command = [sys.executable, "-m", "dira_scale.doctor", "show=json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    states = {component["name"]: component["state"] for component in json.loads(done.stdout)["software"]}
    needed = ("torch", "torchvision", "DICOM decoders", "imagecodecs", "simplejpeg", "tensorboard")
    assert {name: states[name] for name in needed} == dict.fromkeys(needed, "there")
    assert {"DeepSpeed", "monai", "DALI", "FFCV", "SLURM"} < states.keys()


def test_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    install = "cd /a/very/long/path && " + "x" * 200
    result = [Component("torch", "there", "2.13", "", ""), Component("DALI", "missing", "", "decoding", install)]
    monkeypatch.setattr("dira_scale.doctor.survey.components", lambda *_: result)
    assert doctor.main(["show=json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert {"hardware", "software", "launch", "experiments"} == content.keys()
    assert content["software"] == [asdict(component) for component in result]
    assert doctor.main([]) == 0
    page = capsys.readouterr().out
    assert all(component.name in page for component in result) and "\x1b" not in page
    assert install in page and " ".join(as_typed(content["launch"])) in page  # commands are not wrapped
    assert doctor.main(["show=launch"]) == 0
    assert capsys.readouterr().out.split() == content["launch"]
    assert doctor.main(["show=al"]) == 2
    assert "did you mean 'all'?" in capsys.readouterr().err
