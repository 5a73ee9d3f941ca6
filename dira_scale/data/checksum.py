"""The checksum of a shard."""

from typing import BinaryIO

import xxhash


def checksum(file: BinaryIO) -> str:
    """64-bit xxHash3 of the whole ``file``, hex."""
    digest = xxhash.xxh3_64()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()
