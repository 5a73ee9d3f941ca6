"""The launch command for this machine."""

import torch

MODULE = ("-m", "dira_scale.pretrain")


def launch_command(cuda: int | None = None) -> list[str]:
    """The words of ``accelerate launch`` up to a run's own keys.

    One process per GPU; on CPUs a single process with a thread per core. (On two cores, two one-thread processes did
    153 images/s and one process 246, ResNet-18 at 64 pixels and batch 32: averaging gradients costs more than threads.)

    Args:
        cuda: number of GPUs that torch can use; None asks torch.
    """
    cuda = torch.cuda.device_count() if cuda is None else cuda
    processes = cuda or 1
    words = ["accelerate", "launch", *(["--multi_gpu"] if processes > 1 else []), "--num_processes", str(processes)]
    # The defaults are given only to keep accelerate from listing them; precision is the run's own key.
    # Several processes: what torch's launcher sets, with a notice, if it is not set. parallel.threads decides.
    before = ["env", "OMP_NUM_THREADS=1"] if processes > 1 else []
    words += ["--quiet"] if processes == 1 else []  # no launcher traceback when a run is stopped
    return [*before, *words, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *MODULE]


def as_typed(command: list[str]) -> list[str]:
    """What to type: one process needs no launcher."""
    return command if "--multi_gpu" in command else ["python", *MODULE]
