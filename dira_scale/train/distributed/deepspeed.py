"""The configuration of DeepSpeed's ZeRO, which Accelerate needs when the processes start.

DeepSpeed's engine holds only the task's module: a discriminator is tiny, replicated, and has its own step. DeepSpeed's
mixed precision, loss scaling and clipping stay off; our engine does these, the same way under every strategy. (Its bf16
mode would round a momentum network's small steps away; its autocast section averages gradients in 16 bits.)
"""

import warnings
from typing import Any

BUCKET = 2**23  # values per message, 32 MB: about DDP's; DeepSpeed's 5e8 would reserve 2 GB for any model


def plugin(stage: int, offload: bool, cuda: bool) -> Any:
    """Accelerate's plug-in for DeepSpeed. Also limits DeepSpeed's log to errors."""
    import deepspeed
    from accelerate.utils import DeepSpeedPlugin
    from deepspeed.utils.logging import set_log_level_from_string

    # On CPUs it would compile a collective for inference, which ZeRO never calls. If killed meanwhile, it leaves a lock
    # that blocks every later run forever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    set_log_level_from_string("error")
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)  # its own calls
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": cuda,  # a backward pass then ends only when offloaded gradients have arrived, too
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        # Shard small parameters, too: a momentum network updates shards, and an unsharded parameter would not notice.
        "stage3_param_persistence_threshold": 0,
    }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # required, but unused
        "gradient_accumulation_steps": 1,  # our step divides losses and marks the last micro-batch
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    return DeepSpeedPlugin(hf_ds_config=config)
