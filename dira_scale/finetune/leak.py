"""Whether patients that a fine-tuned network is evaluated on were trained on."""

from pathlib import Path

from dira_scale.evaluation.leak import Leak, Part, check_leak, own_source, sources_of
from dira_scale.finetune.config import Finetune
from dira_scale.runs import checkpoint
from dira_scale.runs.folder import recorded_config
from dira_scale.training.inputs import Inputs


def leak_of(config: Finetune, data: Inputs) -> Leak:
    """What the run in the folder has recorded, whose data cannot change; else as they are compared now.

    Raises UserError as ``check_leak``.
    """
    folder = Path(config.run)
    checkpoints = checkpoint.locate_folder(folder, config.checkpoint.folder)
    with checkpoint.as_user_error(checkpoints):
        recorded = recorded_config(folder, checkpoints).get("leak")
    if recorded:
        return Leak(**recorded)
    splits = [split for split in (config.data.val_split, config.data.test_split) if split is not None]
    judged = [Part.of(dataset, split) for split in dict.fromkeys(splits) for dataset in data.datasets]
    sources = [own_source(data), *sources_of(config.init, "init", data.datasets)]
    return check_leak(judged, config.data.test_split, sources)
