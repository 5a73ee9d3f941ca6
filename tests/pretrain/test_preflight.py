"""Start-up checks: launcher against configuration, what differs between processes."""

import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from harness import together
from omegaconf import DictConfig, OmegaConf

from dira_scale.base import errors
from dira_scale.base.config.compose import compose
from dira_scale.base.errors import UserError
from dira_scale.pretrain.config import Pretrain
from dira_scale.train.distributed import control, launcher
from dira_scale.train.engine import preflight


@cache
def composed() -> DictConfig:
    return compose("pretrain", ["experiment=small", "data.shards=nowhere"])


def config(*overrides: str) -> Pretrain:
    """Composed once: ``overrides`` are of single settings, by their whole names."""
    resolved: Any = OmegaConf.to_object(OmegaConf.merge(composed(), OmegaConf.from_dotlist(list(overrides))))
    return resolved


def check_launch(config: Pretrain) -> None:
    launcher.check_launch(config.parallel, config.precision, config.optim.clip)


@pytest.mark.parametrize(
    ("overrides", "environ", "message"),
    [
        ([], {"USE_FSDP": "true"}, "has use_fsdp=true, ours has parallel.strategy=ddp"),
        (["parallel.strategy=fsdp2"], {"USE_FSDP": "true"}, "use_fsdp=true, ours has parallel.strategy=fsdp2"),
        ([], {"USE_DEEPSPEED": "true"}, "has use_deepspeed=true, ours has parallel.strategy=ddp"),
        ([], {"USE_MEGATRON_LM": "true"}, "use_megatron_lm=true"),
        ([], {"USE_PARALLELISM_CONFIG": "true"}, "use_parallelism_config=true"),
        (["precision=bf16"], {"MIXED_PRECISION": "fp16"}, "mixed_precision=fp16, ours has precision=bf16"),
        ([], {"DYNAMO_BACKEND": "INDUCTOR"}, "dynamo_backend=INDUCTOR, ours has parallel.compile=false"),
        (["parallel.strategy=zero1"], {"DEEPSPEED_ZERO_STAGE": "3"}, "zero_stage=3, ours has parallel.strategy=zero1"),
        (
            ["parallel.strategy=zero2", "parallel.accumulate=2"],
            {"GRADIENT_ACCUMULATION_STEPS": "4"},
            "gradient_accumulation_steps=4, ours has parallel.accumulate=2",
        ),
        (["parallel.strategy=zero2"], {"GRADIENT_CLIPPING": "1.0"}, "gradient_clipping=1.0, ours has optim.clip=None"),
        (
            ["parallel.strategy=zero2"],
            {"DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"},
            "offload_optimizer_device=cpu, ours has parallel.offload=false",
        ),
        (["parallel.strategy=zero2"], {"DEEPSPEED_CONFIG_FILE": "ds.json"}, "deepspeed_config_file=ds.json"),
    ],
)
def test_what_accelerate_is_told_otherwise_is_refused_naming_both(
    monkeypatch: pytest.MonkeyPatch, overrides: list[str], environ: dict[str, str], message: str
) -> None:
    if "zero" in str(overrides):
        environ = {"USE_DEEPSPEED": "true"} | environ
    for name, value in environ.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(UserError, match=message):
        check_launch(config(*overrides))


def test_what_accelerate_is_told_alike_is_no_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate launch sets it: capitals and all."""
    printed = {"USE_DEEPSPEED": "true", "DEEPSPEED_ZERO_STAGE": "3", "GRADIENT_ACCUMULATION_STEPS": "2"}
    printed |= {"GRADIENT_CLIPPING": "1.0", "DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu", "MIXED_PRECISION": "bf16"}
    printed |= {"DYNAMO_BACKEND": "NO", "USE_CPU": "True", "DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none"}
    for name, value in printed.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    overrides = ["parallel.strategy=zero3", "parallel.accumulate=2", "optim.clip=1.0", "parallel.offload=true"]
    monkeypatch.setattr(errors, "find_spec", lambda name: object())
    check_launch(config(*overrides, "precision=bf16"))


@pytest.mark.parametrize(
    ("words", "file", "requested"),
    [
        (["python", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "x"], None, 2),
        (["/bin/python", "/venv/bin/accelerate", "launch", "--num-processes=3", "-m", "x"], None, 3),
        (["/bin/python", "/venv/bin/accelerate-launch", "-m", "x"], "num_processes: 4", 4),
        (["/bin/python", "/venv/bin/accelerate-launch", "--config_file", "FILE", "-m", "x"], "num_processes: 5", 5),
        (["/bin/python", "/venv/bin/accelerate-launch", "--cpu", "-m", "x"], "num_processes: 4", 1),
        (["/bin/bash", "accelerate.sh", "--num_processes", "2"], "num_processes: 4", 1),
        (["/sbin/init"], "num_processes: 4", 1),
    ],
)
def test_one_process_where_accelerate_was_asked_for_several(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str], file: str | None, requested: int
) -> None:
    home = tmp_path / "elsewhere" if "FILE" in words else tmp_path
    written = tmp_path / "accelerate" / "default_config.yaml"
    if file:
        written.parent.mkdir()
        written.write_text(file)
    words = [str(written) if word == "FILE" else word for word in words]
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parent = SimpleNamespace(cmdline=lambda: words)
    monkeypatch.setattr("psutil.Process", lambda: SimpleNamespace(parent=lambda: parent))
    if requested == 1:
        check_launch(config())
    else:
        with pytest.raises(
            UserError, match=f"asked for {requested} processes and started one .*--nproc_per_node {requested}"
        ):
            check_launch(config())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("parallel.strategy=fsdp2 parallel.offload=true", "parallel.offload=true: expected false with strategy fsdp2"),
        ("parallel.strategy=zero3 parallel.shard=2", "parallel.shard=2: expected auto with strategy zero3: fsdp2"),
        ("parallel.strategy=fsdp2 parallel.shard=0", "parallel.shard=0: expected auto, or a whole number of at"),
        ("parallel.strategy=zero2 parallel.compile=true", "parallel.compile=true: expected false with strategy zero2"),
    ],
)
def test_what_a_strategy_does_not_have_is_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        compose("pretrain", ["data.shards=nowhere", *words.split()])


def test_a_strategy_names_the_packages_that_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(UserError, match=r"parallel=zero2 needs the extra `deepspeed` \(transformers not installed"):
        check_launch(config("parallel.strategy=zero2"))
    check_launch(config("parallel.strategy=fsdp2"))


def test_fewer_gpus_than_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    with pytest.raises(UserError, match=r"4 processes on .* torch sees 2 GPU\(s\): .*--nproc_per_node 2"):
        check_launch(config())
    check_launch(config("parallel.device=cpu"))


def test_a_run_folder_that_other_machines_do_not_see(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(preflight, "VISIBLE_SECONDS", 0.1)
    with pytest.raises(UserError, match="must be on a file system that all nodes share"):
        preflight.check_shared(tmp_path, "000001.json")
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "000001.json").touch()
    preflight.check_shared(tmp_path, "000001.json")


FOUR = """
import os, socket, sys
from pathlib import Path
import torch.distributed as dist
from omegaconf import OmegaConf
from dira_scale.train.distributed import control
from dira_scale.train.engine import preflight

folder, rank, read, opened = sys.argv[1], int(sys.argv[2]), Path.read_bytes, []
socket.gethostname = lambda: "aabb"[rank]
Path.read_bytes = lambda path: opened.append(path) or read(path) + b"#" * (rank == 2)
dist.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=4)
try:
    preflight.check_alike(OmegaConf.create({"seed": 0, "parallel": {"device": "cpu"}}), {})
except control.AgreedError as error:
    print(len(opened), error, flush=True)
os._exit(0)  # gloo would abort a process that ends with its connections broken
"""


def test_one_process_of_each_machine_reads_the_code(tmp_path: Path) -> None:
    printed = together([[sys.executable, "-c", FOUR, str(tmp_path), str(rank)] for rank in range(4)])
    (main, said), *others = [text.split(" ", 1) for text in printed]
    assert said.startswith("rank(s) 2, 3 on b differ from rank 0 on a in the code of dira_scale (")
    assert int(main) > 500 and others == [["0", said], [main, said], ["0", said]]


@pytest.mark.gpu
def test_two_processes_on_one_gpu_are_refused(tmp_path: Path) -> None:
    """srun without --gpus-per-task: Accelerate wraps the local rank around, and both get the same GPU."""
    torch.multiprocessing.spawn(_share, (str(tmp_path),), nprocs=2)
    printed = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert printed[0] == printed[1] and printed[0].startswith("ranks 0, 1 share GPU ")


def _share(rank: int, folder: str) -> None:
    torch.cuda.set_device(0)
    dist.init_process_group("nccl", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        preflight.check_alike(compose("pretrain", {"experiment=small", "data.shards=nowhere"}), [])
    except control.AgreedError as error:
        Path(folder, f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()
