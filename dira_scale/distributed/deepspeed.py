"""DeepSpeed's ZeRO, as Accelerate is told of it when the processes start.

The engine holds the task's module alone: a discriminator is tiny, replicated, and steps by itself. DeepSpeed's own
mixed precision, loss scaling and clipping stay off; the engine has them, the same under every strategy. (Its bf16 mode
would round a momentum network's small steps away; its autocast section averages gradients in 16 bits.)
"""

import warnings
from typing import Any

BUCKET = 2**23  # values sent at once, 32 MB: about DDP's; DeepSpeed's 5e8 would keep 2 GB by for any model


def plugin(stage: int, offload: bool, cuda: bool) -> Any:
    """What Accelerate is told of DeepSpeed, which from then on speaks of errors alone."""
    import deepspeed
    from accelerate.utils import DeepSpeedPlugin
    from deepspeed.utils.logging import set_log_level_from_string

    # On CPUs it would compile a collective for inference, which ZeRO never calls; killed meanwhile, it leaves a lock on
    # which every later run waits for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False

    set_log_level_from_string("error")
    warnings.filterwarnings("ignore", r"`torch.distributed.\w+` is deprecated", FutureWarning)  # of calls in it
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": cuda,  # then a backward pass ends only when offloaded gradients have come, too
        "reduce_bucket_size": BUCKET,
        "allgather_bucket_size": BUCKET,
        "stage3_prefetch_bucket_size": BUCKET,
        # Small parameters are cut too: one that stays whole would not notice its shard's moving average.
        "stage3_param_persistence_threshold": 0,
    }
    if offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": cuda}
    config = {
        "train_micro_batch_size_per_gpu": 1,  # counted by nobody
        "gradient_accumulation_steps": 1,  # the loop divides losses and says which micro-batch is the last
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }
    return DeepSpeedPlugin(hf_ds_config=config)
