"""One checkpoint format for every strategy.

::

    checkpoints/000001200/index.json          step, state, lease, tensors, each part's size and xxh3 by chunk
                          part-3-00000-of-00002.safetensors   one per writer, with the number of its lease
    checkpoints/LATEST, BEST-dir …                      the name of a complete folder

Written while training continues. In a local folder to ``000001200.LEASE.tmp``, which is then renamed; in an object
store in place, with the index last: there, a checkpoint exists once it has an index. The pointers only repeat what the
newest state says, and are corrected when a run resumes. A part has slices of tensors, those that its process holds, so
nothing is gathered; a reader takes the ranges that it needs from all parts. No pickle is loaded, and reading needs
neither a GPU nor the number of processes that wrote it.
"""

from dira_scale.train.runs.checkpoint.folder import as_user_error, clean_up, make_folder, remedy, require_space
from dira_scale.train.runs.checkpoint.pointers import (
    StoredCheckpoint,
    best,
    latest,
    stages_with_best,
    stored_checkpoints,
)
from dira_scale.train.runs.checkpoint.reading import Newest, find_latest, load
from dira_scale.train.runs.checkpoint.slices import CheckpointTensor, replicated
from dira_scale.train.runs.checkpoint.stored import DamagedError, LazyTensors, StoredTensors
from dira_scale.train.runs.checkpoint.writer import Checkpointer, NotSavedError
from dira_scale.train.runs.complete import complete, find_folder, locate_folder

__all__ = [
    "CheckpointTensor",
    "Checkpointer",
    "DamagedError",
    "LazyTensors",
    "Newest",
    "NotSavedError",
    "StoredCheckpoint",
    "StoredTensors",
    "as_user_error",
    "best",
    "clean_up",
    "complete",
    "find_folder",
    "find_latest",
    "latest",
    "load",
    "locate_folder",
    "make_folder",
    "remedy",
    "replicated",
    "require_space",
    "stages_with_best",
    "stored_checkpoints",
]
