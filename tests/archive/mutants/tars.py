"""Shards as a stranger may send them: good samples, and members that name other places, sizes and kinds.

Each is made of a good shard, whose samples stay where they are unless it says otherwise.
"""

import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

BLOCK = 512
PAYLOAD = b"Quillfeather was here"


def header(name: str = "owned", content: bytes = PAYLOAD, **fields: object) -> bytes:
    """A member: its header in GNU's form, and ``content``."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape") + content + bytes(-len(content) % BLOCK)


def sized(size: bytes) -> bytes:
    """A member whose field of size holds these 12 bytes, with a right checksum."""
    block = bytearray(header()[:BLOCK])
    block[124:136] = size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def pax(lines: dict[str, str], kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A header that extends the next one."""
    content = b""
    for key, value in lines.items():
        line = f" {key}={value}\n".encode()
        length = len(line) + len(str(len(line) + 2))
        content += str(length).encode() + line
    return header("PaxHeaders/x", content, type=kind) + header()


def behind(more: bytes) -> Callable[[bytes], bytes]:
    """Behind the last good member."""

    def made(shard: bytes) -> bytes:
        good = shard[: 512 * (1 + len(shard.rstrip(b"\0")) // 512)]
        return good + more + bytes(2 * BLOCK)

    return made


def first(shard: bytes) -> tuple[tarfile.TarInfo, tarfile.TarInfo]:
    """The image and the JSON of the first sample."""
    with tarfile.open(fileobj=io.BytesIO(shard)) as tar:
        return tar.getmembers()[0], tar.getmembers()[1]


def instead_of_json(block: Callable[[str], bytes]) -> Callable[[bytes], bytes]:
    """Another header at the place of the first JSON's, whose name it is given."""

    def made(shard: bytes) -> bytes:
        _, json = first(shard)
        return shard[: json.offset] + block(json.name)[:BLOCK] + shard[json.offset + BLOCK :]

    return made


def again(shard: bytes) -> bytes:
    """The first sample's image once more, with other bytes."""
    return behind(header(first(shard)[0].name, PAYLOAD))(shard)


def tars(outside: Path) -> dict[str, Callable[[bytes], bytes]]:
    """By what is done; ``outside`` is a file that nobody may touch."""
    folder = str(outside.parent)
    links = header("ln", b"", type=tarfile.SYMTYPE, linkname=folder) + header("ln/owned")
    return {
        "a name above": behind(header("../owned") + header("../../owned")),
        "a link, and a file through it": behind(links),
        "a character device": behind(header("zero", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=5)),
        "a size of 8 GiB": behind(sized(b"77777777777\0")),
        "a size below zero": behind(sized(b"\xff" * 11 + b"\x00")),
        "a size that leads back to the beginning": lambda s: behind(sized(struct.pack(">Iq", 2**32 - 1, -len(s))))(s),
        "a pax name above": behind(pax({"path": "../../owned"})),
        "a pax size of 10^18": behind(pax({"size": str(10**18)})),
        "a long name of GNU's": behind(header("././@LongLink", b"../" * 999 + b"owned\0", type=b"L") + header()),
        "a name that speaks to a terminal": behind(header("\x1b[2J\x1b]0;owned\x07")),
        "a sample twice": again,
        "a JSON that is a link": instead_of_json(lambda n: header(n, b"", type=tarfile.SYMTYPE, linkname=str(outside))),
        "a JSON of 8 GiB": instead_of_json(lambda name: sized(b"77777777777\0")),
    }
