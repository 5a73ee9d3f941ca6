"""Checks the launcher's settings against our configuration, in each process before they are connected."""

import os
import socket
from argparse import ArgumentParser
from pathlib import Path

import psutil
import torch
import yaml

from dira_scale.base.config import logs
from dira_scale.base.errors import UserError, require
from dira_scale.train.distributed.config import Parallel


def check_launch(parallel: Parallel, precision: str, clip: float | None) -> None:
    """Refuse a launcher that contradicts the configuration.

    Raises:
        UserError: accelerate's own configuration contradicts ours, the launcher started fewer processes than requested
            or more than there are GPUs, or a package that the strategy needs is missing.
    """
    _refuse_accelerate(parallel, precision, clip)
    requested = _requested_processes()
    if requested > 1 and int(os.environ.get("WORLD_SIZE", "1")) == 1:  # on CPUs, accelerate says nothing of it
        raise UserError(
            f"accelerate launch was asked for {requested} processes and started one (on CPUs it needs mpirun); use "
            f"torchrun --nproc_per_node {requested} -m dira_scale.{logs.command() or 'COMMAND'} …, or --multi_gpu "
            "instead of --cpu"
        )
    if parallel.strategy.startswith("zero"):
        require(f"parallel={parallel.strategy} needs", "deepspeed", "deepspeed", "transformers")
    if parallel.device == "cpu":
        return
    gpus, local = torch.cuda.device_count(), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if 0 < gpus < local:
        raise UserError(
            f"{local} processes on {socket.gethostname()}, where torch sees {gpus} GPU(s): start one per GPU "
            f"(--nproc_per_node {gpus}, --num_processes {gpus}), or make more visible (CUDA_VISIBLE_DEVICES)"
        )


def _refuse_accelerate(ours: Parallel, precision: str, clip: float | None) -> None:
    """``accelerate launch`` passes its flags and its file on in these variables."""
    strategy, zero = f"parallel.strategy={ours.strategy}", ours.strategy.startswith("zero")
    agreeing = [  # variable, accelerate's name for it, our key, the values that agree with ours (the first: unset)
        ("USE_FSDP", "use_fsdp", strategy, ["false"]),
        ("USE_MEGATRON_LM", "use_megatron_lm", strategy, ["false"]),
        ("USE_PARALLELISM_CONFIG", "use_parallelism_config", strategy, ["false"]),
        ("USE_DEEPSPEED", "use_deepspeed", strategy, ["false", "true"] if zero else ["false"]),
        ("MIXED_PRECISION", "mixed_precision", f"precision={precision}", ["no", precision]),
        ("DYNAMO_BACKEND", "dynamo_backend", f"parallel.compile={str(ours.compile).lower()}", ["no"]),
    ]
    if zero and os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        accumulate, clipping = f"parallel.accumulate={ours.accumulate}", f"optim.clip={clip}"
        device = "cpu" if ours.offload else "none"
        offload = f"parallel.offload={str(ours.offload).lower()}"
        agreeing += [
            ("DEEPSPEED_ZERO_STAGE", "zero_stage", strategy, [ours.strategy.removeprefix("zero")]),
            ("GRADIENT_ACCUMULATION_STEPS", "gradient_accumulation_steps", accumulate, [str(ours.accumulate)]),
            ("GRADIENT_CLIPPING", "gradient_clipping", clipping, [str(clip).lower()]),
            ("DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "offload_optimizer_device", offload, [device]),
            ("DEEPSPEED_OFFLOAD_PARAM_DEVICE", "offload_param_device", offload, ["none"]),
            ("DEEPSPEED_CONFIG_FILE", "deepspeed_config_file", strategy, ["none"]),
        ]
    for variable, name, key, values in agreeing:
        value = os.environ.get(f"ACCELERATE_{variable}", values[0])
        if value.lower() not in values:
            raise UserError(
                f"accelerate's own configuration has {name}={value}, ours has {key}: remove accelerate's "
                f"(--{name}, or that line of its file); here it only starts processes"
            )


def _requested_processes() -> int:
    """Return how many processes the parent ``accelerate launch`` was asked for, by its command line or file.

    1 under any other launcher.
    """
    try:
        words = psutil.Process().parent().cmdline()
    except (psutil.Error, AttributeError):
        return 1
    names = [Path(word).name for word in words[:4]]
    if not {"accelerate", "accelerate-launch", "accelerate.commands.launch"} & set(names):
        return 1
    flags = ArgumentParser(add_help=False, allow_abbrev=False)
    flags.add_argument("--cpu", action="store_true")
    flags.add_argument("--num_processes", "--num-processes")
    flags.add_argument("--config_file", "--config-file")
    options, _ = flags.parse_known_args(words)
    number = options.num_processes
    if number is None and (options.config_file or not options.cpu):
        cache = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface"))
        file = Path(options.config_file or cache / "accelerate" / "default_config.yaml")
        number = str(yaml.safe_load(file.read_text()).get("num_processes")) if file.is_file() else None
    return int(number) if number and number.isdigit() else 1
