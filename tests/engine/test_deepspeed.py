"""The parts of DeepSpeed that are not its public interface and that engine/parallel/zero.py relies on are there.

If this fails after an update, read DeepSpeed's changes of each part named here before the version range is widened.
"""

import inspect
import re
from importlib.metadata import version

from harness import require_strategy
from packaging.version import Version

# Attributes of the optimizers that DeepSpeed makes: partitions, their parameters, the averaged gradients.
STAGES_1_AND_2 = (
    "single_partition_of_fp32_groups", "bit16_groups", "averaged_gradients", "_hp_optimizer_states_linked",
    "_lazy_init_hp_params_optimizer_state",
)  # fmt: skip
STAGE_3 = ("fp32_partitioned_groups_flat", "fp16_groups", "averaged_gradients")
ENGINE = ("set_gradient_accumulation_boundary", "zero_optimization_stage", "zero_cpu_offload", "backward", "step")
PARAMETER = ("ds_tensor", "ds_numel", "ds_shape")  # what stage 3 adds to a parameter


def test_the_private_parts_of_deepspeed_that_are_used_are_there() -> None:
    require_strategy("zero2")
    import deepspeed
    from deepspeed.runtime.engine import DeepSpeedEngine
    from deepspeed.runtime.zero import parameter_offload, partition_parameters
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator
    from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
    from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer

    assert Version("0.19.8") <= Version(version("deepspeed")) < Version("0.20")
    assert all(hasattr(DeepSpeedEngine, name) for name in ENGINE)
    for kind, names in ((DeepSpeedZeroOptimizer, STAGES_1_AND_2), (DeepSpeedZeroOptimizer_Stage3, STAGE_3)):
        source = "".join(inspect.getsource(base) for base in kind.__mro__ if base.__module__.startswith("deepspeed"))
        missing = [name for name in names if not re.search(rf"\b{name}\b", source)]
        assert not missing, (kind.__name__, missing)
    source = inspect.getsource(partition_parameters)
    assert all(re.search(rf"\.{name}\b", source) for name in PARAMETER)
    # What keeps the modules of an engine that is gone alive, and is cleared between two stages.
    assert isinstance(parameter_offload.FWD_MODULE_STACK, list)
    cached = PartitionedParameterCoordinator._PartitionedParameterCoordinator__params_to_release  # type: ignore[attr-defined]
    assert any(hasattr(cell.cell_contents, "cache_clear") for cell in cached.__closure__ or ())
    assert "deepspeed_shm_comm" in deepspeed.ops.__compatible_ops__
