"""Which shards ``verify`` has found intact, so that a killed call goes on, and slices add up to the dataset.

``NAME.verified`` beside the dataset has a file for each slice: the hash of what was verified, then a shard a line. A
dataset of another manifest or description has another hash; damaged shards are not noted, so they are verified again.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import xxhash

from dira_scale.archive.claim import ShardSlice
from dira_scale.archive.output import beside
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import own
from dira_scale.base.storage.store import remove
from dira_scale.dataset.manifest import ShardedDataset

logger = logging.getLogger(__name__)


class Notes:
    """The notes on one dataset.

    Attributes:
        of: hash of its manifest's identity and its description.
        intact: the shards that earlier calls have found intact.
    """

    def __init__(self, dataset: ShardedDataset) -> None:
        self.folder = beside(dataset.root, "verified")
        self.of = xxhash.xxh3_128_hexdigest((dataset.manifest.identity + dataset.info.to_json()).encode())
        self.intact = set[str]()
        for file in self.folder.glob("*-of-*.txt"):
            lines = file.read_text(errors="replace").split("\n")[:-1]  # the last one is empty, or torn
            self.intact.update(lines[1:] if lines[:1] == [self.of] else [])

    @contextmanager
    def writer(self, part: ShardSlice) -> Iterator[Callable[[str], None]]:
        """A function that notes a shard. Where nothing can be written, a warning says so, and it does nothing.

        Raises UserError if the folder is not of ``verify``.
        """
        path = self.folder / f"{part.number}-of-{part.total}.txt"
        try:
            own(self.folder, "verification", "path")
            write_atomic(path, "\n".join([self.of, *sorted(self.intact), ""]))
            file = path.open("a", buffering=1)
        except OSError as error:
            reason = f"{self.folder} cannot be written ({error.strerror or error})"
            logger.warning(f"{reason}: if verify is stopped, it starts again from the first shard")
            yield lambda shard: None
            return
        with file:
            yield lambda shard: print(shard, file=file)

    def remove(self) -> None:
        """Remove them: the next call verifies everything."""
        remove(self.folder)
