"""The set-up: which torch comes, what is refused before any download, and what an interrupted call leaves."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
import zipfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ModuleType]:
    """setup/install.py with an environment of its own, run by this Python."""
    monkeypatch.syspath_prepend(ROOT / "setup")
    monkeypatch.delenv("ACCELERATOR", raising=False)
    module = import_module("install")
    monkeypatch.setattr(module, "VENV", tmp_path)
    monkeypatch.setattr(module, "STAMP", tmp_path / "install.json")
    monkeypatch.setattr(module, "SITE_PACKAGES", tmp_path / "site-packages")
    monkeypatch.setattr(module, "PYTHON", Path(sys.executable))
    (tmp_path / "site-packages").mkdir()
    yield module
    sys.modules.pop("install")
    sys.modules.pop("progress")


def wheel(folder: Path, version: str) -> None:
    """A wheel named like torch's."""
    info = f"torch-{version}.dist-info"
    with zipfile.ZipFile(folder / f"torch-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/RECORD", "")


def only(monkeypatch: pytest.MonkeyPatch, links: Path) -> None:
    """pip sees ``links`` and nothing else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))


def test_the_chosen_wheel_is_the_one_pip_chooses(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, tmp_path)
    wheel(tmp_path, "2.13.0")
    assert install.chosen_wheel("torch==2.13.0") == "torch-2.13.0-py3-none-any.whl"
    wheel(tmp_path, "2.13.0+cpu")
    assert install.chosen_wheel("torch==2.13.0") == "torch-2.13.0+cpu-py3-none-any.whl"
    with pytest.raises(install.SetupError, match=r"no wheel of torch==9\.9"):
        install.chosen_wheel("torch==9.9")


@pytest.mark.parametrize(
    ("build", "accelerator", "driver", "system", "reason"),
    [
        ("", "cpu", None, "Linux", "shows no GPU"),
        ("", "cpu", "12.8", "Linux", "shows no GPU"),
        ("+cpu", "cpu", None, "Linux", ""),
        ("", "cpu", None, "Darwin", ""),
        ("", "cuda", "12.8", "Linux", "supports CUDA 12.8"),
        ("+cu126", "cuda", "12.8", "Linux", ""),
        ("", "cuda", "13.0", "Linux", ""),
        ("", "cuda", None, "Linux", ""),
    ],
)
def test_a_wheel_suits_a_machine_with_its_driver_or_is_refused_with_the_reason(
    build: str, accelerator: str, driver: str | None, system: str, reason: str, install: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(install.platform, "system", lambda: system)
    monkeypatch.setattr(install.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(install, "driver_cuda", lambda: driver)
    found = install.misfit(f"torch-2.13.0{build}-cp311-cp311-manylinux_2_28_x86_64.whl", accelerator)
    assert reason in found and bool(found) == bool(reason)


@pytest.mark.parametrize(
    ("torch", "gpu", "message"),
    [
        ("2.13.0+cu126 12.6 True", True, None),
        ("2.13.0 13.0 False", True, r"torch 2\.13\.0 \(for CUDA 13\.0\) .*supports CUDA 12\.8\. .*ACCELERATOR=cpu"),
        ("2.13.0 13.0 False", False, None),  # a machine that installs for others
        ("2.13.0+cpu None False", True, r"torch 2\.13\.0\+cpu \(a CPU build\) .*cannot use the GPU"),
        ("2.13.0+cpu None False", False, "a CPU build"),
    ],
)
def test_a_set_up_ends_with_a_torch_that_can_use_the_gpu_or_with_one_line(
    torch: str, gpu: bool, message: str | None, install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kept torch, too; nothing of it is asked where the CPU is chosen."""
    python = install.VENV / "python"
    python.write_text(f'#!/bin/sh\n[ -z "${{CUDA_VISIBLE_DEVICES+set}}" ] && echo "{torch}"; true\n')
    python.chmod(0o755)
    for step in ("make_venv", "pip", "check"):
        monkeypatch.setattr(install, step, lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # no reason to call it unusable
    for name, value in {"PYTHON": python, "LOG": install.VENV / "log", "ROOT": install.VENV}.items():
        monkeypatch.setattr(install, name, value)
    for name, value in {"installed": torch.split()[0], "pinned": "2.13.0", "shows_gpu": gpu}.items():
        monkeypatch.setattr(install, name, lambda *_, value=value: value)
    monkeypatch.setattr(install, "driver_cuda", lambda: "12.8")
    (install.VENV / "constraints.txt").touch()
    if message:
        with pytest.raises(install.SetupError, match=message) as refused:
            install.install("cuda", {"extras": []})
        assert "\n" not in str(refused.value) and not install.STAMP.exists()
        install.install("cpu", {"extras": []})
    else:
        install.install("cuda", {"extras": []})
    assert install.STAMP.exists()


UV = """#!/bin/sh
printf '%s\\n' "$@" > {arguments}
[ "{build}" ] || {{ echo 'error: Failed to fetch the CPU index'; exit 2; }}
"""
REASON = "pip would fetch another build"


def provide_uv(install: ModuleType, program: str, build: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """What pip installs as uv is ``program``; the torch that it installs has ``build`` in its version. Returns what is
    asked for."""
    uv, pin = install.VENV / "uv", install.pinned("torch")

    def pip(*_: str) -> None:
        uv.write_text(program)
        uv.chmod(0o755)

    stand_ins = {"chosen_wheel": "torch.whl", "misfit": REASON, "installed": f"{pin}{build}"}
    for name, value in stand_ins.items():
        monkeypatch.setattr(install, name, lambda *_, value=value: value)
    for name, value in {"pip": pip, "UV": uv, "LOG": install.VENV / "install.log"}.items():
        monkeypatch.setattr(install, name, value)
    return f"torch=={pin}"


@pytest.mark.parametrize(
    ("accelerator", "backend", "build", "failure"),
    [
        ("cuda", "auto", "+cu126", ""),
        ("cpu", "cpu", "+cpu", ""),
        ("cuda", "auto", "+cpu", r"has 2\.\d+\.\d+\+cpu as torch"),  # uv's last resort
        ("cpu", "cpu", "", "uv failed .*Failed to fetch the CPU index"),
    ],
)
def test_where_pip_finds_no_build_that_suits_the_machine_uv_fetches_one(
    accelerator: str, backend: str, build: str, failure: str, install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = install.VENV / "arguments"
    torch = provide_uv(install, UV.format(arguments=arguments, build=build), build, monkeypatch)
    if failure:
        with pytest.raises(install.SetupError, match=rf"(?s){REASON}.*{failure}.*PIP_EXTRA_INDEX_URL"):
            install.install_torch(torch, accelerator)
    else:
        install.install_torch(torch, accelerator)
    given = arguments.read_text().splitlines()
    assert given[:2] == ["pip", "install"] and given[-1] == torch
    assert {f"--torch-backend={backend}", "--no-deps", str(install.PYTHON)} <= set(given)
    assert given[given.index("-c") + 1] == str(ROOT / "constraints.txt")


def test_a_uv_without_an_answer_is_not_waited_for(install: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a firewall that drops what it does not let through."""
    torch = provide_uv(install, "#!/bin/sh\nexec sleep 600\n", "", monkeypatch)
    monkeypatch.setattr(install, "PATIENCE", 0.2)
    with pytest.raises(install.SetupError, match=r"(?s)no answer from torch's index.*PIP_EXTRA_INDEX_URL"):
        install.install_torch(torch, "cpu")


def test_accelerator_is_found_or_reported(install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install.Path, "glob", lambda *_: iter(()))  # no /dev/nvidia*
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.chosen_accelerator() == "cpu"
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100'\n")
    smi.chmod(0o755)
    assert install.chosen_accelerator() == "cuda"
    smi.write_text("#!/bin/sh\necho 'No devices found.'; exit 6\n")
    assert install.chosen_accelerator() == "cpu"
    monkeypatch.setenv("ACCELERATOR", "cuda")
    assert install.chosen_accelerator() == "cuda"
    monkeypatch.setenv("ACCELERATOR", "gpu")
    with pytest.raises(install.SetupError, match="ACCELERATOR=gpu: expected cpu or cuda"):
        install.chosen_accelerator()


@pytest.mark.parametrize(
    ("answer", "version", "expected"),
    [(13000, "13.0", "dali"), (12080, "12.8", "dali-cuda12"), (-1, None, "dali"), (None, None, "dali")],
)
def test_a_gpu_machine_gets_dali_for_its_driver(
    answer: int | None, version: str | None, expected: str, install: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver's library that gives its version, one that fails, and none."""

    def load(_: str) -> SimpleNamespace:
        if answer is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return SimpleNamespace(cuDriverGetVersion=lambda given: setattr(given._obj, "value", answer) or answer < 0)

    monkeypatch.setattr(install.ctypes, "CDLL", load)
    assert install.driver_cuda() == version and install.gpu_extras("cuda", ["test"]) == [expected]
    assert install.gpu_extras("cpu", ["test"]) == install.gpu_extras("cuda", ["dali-cuda12"]) == []


def test_half_unpacked_packages_are_forgotten(install: ModuleType) -> None:
    for name, files in {"whole": ("METADATA", "INSTALLER", "RECORD"), "half": ("METADATA", "RECORD")}.items():
        folder = install.SITE_PACKAGES / f"{name}-1.0.dist-info"
        folder.mkdir()
        for file in files:
            (folder / file).touch()
    install.make_venv()
    assert [path.name for path in install.SITE_PACKAGES.iterdir()] == ["whole-1.0.dist-info"]


def test_torch_is_held_at_the_very_build_that_is_there(install: ModuleType) -> None:
    pin = install.pinned("torch")
    lines = install.constraints(f"{pin}+cpu", pin).read_text().splitlines()
    assert f"torch=={pin}+cpu" in lines
    assert f"torch=={pin}" not in lines
    assert f"torchvision=={install.pinned('torchvision')}" in lines
    other = install.constraints("2.12.0+cu130", pin).read_text().splitlines()
    held = [line for line in other if line.startswith(("torch==", "torchvision"))]
    assert held == ["torch==2.12.0+cu130"]  # torchvision follows it


def test_a_finished_set_up_is_not_done_again_and_keeps_its_extras(install: ModuleType) -> None:
    now = install.key("cpu")
    install.STAMP.write_text(f'{{"key": "{now}", "extras": ["test"]}}')
    assert install.up_to_date({"key": now, "extras": []})
    assert install.up_to_date({"key": now, "extras": ["test"]})
    assert not install.up_to_date({"key": install.key("cuda"), "extras": []})
    wanted = {"key": now, "extras": ["dali"]}
    assert not install.up_to_date(wanted)
    assert wanted["extras"] == ["dali", "test"]
    install.STAMP.write_text("")  # cut short by a power cut
    assert not install.up_to_date({"key": now, "extras": []})


def test_a_venv_of_another_python_is_refused(install: ModuleType) -> None:
    (install.VENV / "pyvenv.cfg").write_text("home = /usr/bin\nversion = 3.7.9\n")
    with pytest.raises(install.SetupError, match=r"made with Python 3\.7\.9.*rm -rf \.venv.*PYTHON=python3\.7 "):
        install.make_venv()
    (install.VENV / "pyvenv.cfg").write_text(f"version = {sys.version.split()[0]}\n")
    install.make_venv()


@pytest.mark.parametrize("shared", ["true", "false"])
def test_quarrels_among_the_outer_pythons_packages_are_a_note(
    shared: str, install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python = install.VENV / "python"
    python.write_text("#!/bin/sh\necho 'a 1.0 requires b, which is not installed.'; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(install, "PYTHON", python)
    (install.VENV / "pyvenv.cfg").write_text(f"include-system-site-packages = {shared}\n")
    if shared == "true":
        install.check()
        assert "note: pip check reports" in (printed := capsys.readouterr().out) and "a 1.0 requires b" in printed
    else:
        with pytest.raises(install.SetupError, match=r"a 1\.0 requires b"):
            install.check()


def test_a_failing_pip_is_one_message_with_the_end_of_its_log(
    install: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, tmp_path)
    monkeypatch.setattr(install, "ROOT", tmp_path)
    monkeypatch.setattr(install, "LOG", tmp_path / "install.log")
    with pytest.raises(install.SetupError, match=r"(?s)pip failed on packages.*no-such-package"):
        install.pip("packages", "no-such-package")


def test_constraints_pin_every_requirement_of_pyproject() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [line for lines in project["optional-dependencies"].values() for line in lines]
    for line in project["dependencies"] + optional:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name != "dira-scale":  # an extra made of other extras
            assert name in pins, f"constraints.txt lacks {name}"
            assert requirement.specifier.contains(pins[name]), f"{name}=={pins[name]} is not {requirement}"


def test_both_container_images_start_from_the_same_system_and_install_the_same_extras() -> None:
    folder = ROOT / "setup" / "container"
    docker, apptainer = ((folder / name).read_text() for name in ("Dockerfile", "dira_scale.def"))
    assert re.findall(r"^(?:FROM|From:) (\S+)$", docker + apptainer, re.MULTILINE) == ["debian:12-slim"] * 2
    requested = re.search(r'^ARG EXTRAS="(.*)"$', docker, re.MULTILINE)
    given = re.search(r"build\.sh (.*)$", apptainer, re.MULTILINE)
    assert requested and given and requested[1] == given[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(given[1].split()) <= project["optional-dependencies"].keys()
    path = "/opt/dira_scale/.venv/bin:$PATH"
    assert f"ENV PATH={path}" in docker and f"export PATH={path}" in apptainer


PYTHON_OF_A_PRETRAINING = """#!/bin/sh
case "$*" in
  *"doctor show=launch") echo launcher ;;
  -m*) ;;
  *) exec {python} "$@" ;;
esac
"""
RUN = """
import json, pathlib, signal, sys, time
status = pathlib.Path("out/runs/phantom/status.json")
status.parent.mkdir(parents=True)
def stop(*_):
    status.write_text(json.dumps({"state": "interrupted"}))
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
pathlib.Path("started").touch()
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("number", "accelerator"), [(signal.SIGINT, ""), (signal.SIGTERM, "cpu"), (signal.SIGHUP, "cuda")]
)
def test_what_ends_make_pretrain_asks_the_run_for_a_checkpoint(
    number: signal.Signals, accelerator: str, tmp_path: Path
) -> None:
    """The script with a Python and a launcher of its own: the launcher knows no signals, its process does.

    The command that it prints is the one that it runs, with the device if the CPU was chosen.
    """
    script = tmp_path / "setup" / "pretrain.sh"
    programs = {
        script: (ROOT / "setup" / "pretrain.sh").read_text(),
        tmp_path / ".venv" / "bin" / "python": PYTHON_OF_A_PRETRAINING.format(python=sys.executable),
        tmp_path / ".venv" / "bin" / "launcher": f'#!/bin/sh\necho "$*" > words\n{sys.executable} run.py; exit 1\n',
    }
    for path, text in programs.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "run.py").write_text(RUN)
    environment = os.environ | {"ACCELERATOR": accelerator}
    with subprocess.Popen([script], stdout=subprocess.PIPE, text=True, env=environment) as process:
        while not (tmp_path / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert "interrupted; run make pretrain again to resume" in printed
    words = (tmp_path / "words").read_text()
    assert words.startswith("experiment=phantom ") and f"\nlauncher {words}" in printed
    assert words.endswith(" parallel.device=cpu\n") == (accelerator == "cpu")


HOOK = """
import os, sys
# Python's own finders only: whatever made torchvision importable in this environment is taken away.
sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__module__", "").startswith("_frozen_importlib")]
from dira_scale.base.machine import torchvision_ops
torchvision_ops.register(); torchvision_ops.register()
import torch
assert "torchvision" not in sys.modules
bare = os.fork()  # one that has imported torch and has no hook
if not bare:
    sys.meta_path.remove(torchvision_ops.DeclareFirst)
    assert torchvision_ops.DeclareFirst not in sys.meta_path
    import torchvision.extension
    os._exit(0)
bare = os.waitstatus_to_exitcode(os.waitpid(bare, 0)[1])
import torchvision.extension
print(torchvision.extension._has_ops(), len(torchvision_ops._declared), bare)
"""


def test_torchvision_is_importable_whatever_torch_it_was_built_for() -> None:
    """Without the hook the import works exactly where the native library loads; with it, everywhere."""
    done = subprocess.run([sys.executable, "-c", HOOK], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    native, declared, bare = done.stdout.split()
    assert (native, declared) in {("True", "0"), ("False", "1")}
    assert (bare == "0") == (native == "True")
    if native == "False":
        assert "torchvision::nms does not exist" in done.stderr
