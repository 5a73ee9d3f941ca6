"""The launch command that fits a machine."""

import torch

from dira_scale.machine.hardware import Hardware


def launch_command(hardware: Hardware, cuda: int | None = None) -> list[str]:
    """The words before a run's own keys, from ``accelerate launch`` on.

    One process a GPU; on CPUs one process with a thread a core. (Two one-thread processes on two cores did 153 images/s
    where one process did 246, ResNet-18 at 64 pixels and batch 32: averaging gradients costs more than threads do.)

    Args:
        cuda: number of GPUs that torch can use; None asks torch.
    """
    cuda = torch.cuda.device_count() if cuda is None else cuda
    processes = cuda or 1
    words = ["accelerate", "launch", *(["--multi_gpu"] if processes > 1 else []), "--num_processes", str(processes)]
    # Said only to keep accelerate from announcing its defaults; precision is the run's own key.
    words += ["--quiet"] if processes == 1 else []  # a run that was stopped is no error of the launcher's
    words += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dira_scale.pretrain"]
    return words if has_bf16(hardware, cuda) else [*words, "precision=fp32"]


def has_bf16(hardware: Hardware, cuda: int) -> bool:
    """Whether bfloat16, the default precision, is known to be computed by the hardware and not imitated at a loss."""
    capabilities = [gpu.capability for gpu in hardware.gpus]
    return all(c is not None and c >= 8.0 for c in capabilities) if cuda else bool(hardware.bf16)
