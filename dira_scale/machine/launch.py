"""The launch command that fits a machine."""

import torch

from dira_scale.machine.hardware import Hardware


def launch_command(hardware: Hardware, cuda: int | None = None) -> list[str]:
    """The words before a run's own keys, from ``accelerate launch`` on.

    One process a GPU. On CPUs one-thread processes beat the threads of one process (400 against 294 images/s on two
    cores), so as many processes as the largest power of two within the cores: batches are divisible by it. Accelerate
    calls several processes on one machine ``--multi_gpu``; without GPUs they run on the CPU.

    Args:
        cuda: number of GPUs that torch can use; None asks torch.
    """
    cuda = torch.cuda.device_count() if cuda is None else cuda
    processes = cuda or 1 << (hardware.cores.bit_length() - 1)
    words = ["accelerate", "launch", *(["--multi_gpu"] if processes > 1 else []), "--num_processes", str(processes)]
    # Said only to keep accelerate from announcing its defaults; precision is the run's own key.
    words += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "dira_scale.pretrain"]
    return words if has_bf16(hardware, cuda) else [*words, "precision=fp32"]


def has_bf16(hardware: Hardware, cuda: int) -> bool:
    """Whether bfloat16, the default precision, is computed by the hardware and not imitated at a loss."""
    return all(gpu.capability >= 8.0 for gpu in hardware.gpus) if cuda else bool(hardware.bf16)
