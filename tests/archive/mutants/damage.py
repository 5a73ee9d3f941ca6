"""Accidents of disks, networks and programs."""

# ruff: noqa: E501
import random
from collections.abc import Callable


def damaged(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One of the accidents of disks, networks and programs: its kind, and what is left."""
    accidents: list[tuple[str, Callable[[bytes, random.Random], bytes]]] = [
        ("one bit flipped", lambda c, r: _flipped(c, r, 1)),
        ("ten bits flipped", lambda c, r: _flipped(c, r, 10)),
        ("ten bits flipped, header", lambda c, r: _flipped(c, r, 10, 400)),
        ("1 % of bytes replaced", lambda c, r: _replaced(c, r, 1 + len(c) // 100)),
        ("header bytes 0 or 255", lambda c, r: _replaced(c, r, 5, 400, (0, 255))),
        ("cut short", lambda c, r: c[: r.choice((1, 2, 4, 16, 131, 132, 144, 347, 352, len(c) - 1, r.randrange(len(c))))]),
        ("a part missing", lambda c, r: _without(c, r)),
        ("a part twice", lambda c, r: _twice(c, r)),
        ("rubbish behind", lambda c, r: c + r.randbytes(r.choice((1, 100, 5000)))),
        ("rubbish before", lambda c, r: r.randbytes(r.choice((1, 128, 512))) + c),
        ("zeros from the middle", lambda c, r: c[: len(c) // 2] + bytes(len(c) - len(c) // 2)),
    ]  # fmt: skip
    kind, accident = rng.choice(accidents)
    return kind, accident(content, rng)


def _flipped(content: bytes, rng: random.Random, count: int, end: int | None = None) -> bytes:
    spoilt = bytearray(content)
    for _ in range(count):
        spoilt[rng.randrange(min(end or len(spoilt), len(spoilt)))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _replaced(
    content: bytes, rng: random.Random, count: int, end: int | None = None, by: tuple[int, ...] = tuple(range(256))
) -> bytes:
    spoilt = bytearray(content)
    for _ in range(count):
        spoilt[rng.randrange(min(end or len(spoilt), len(spoilt)))] = rng.choice(by)
    return bytes(spoilt)


def _without(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    return content[:start] + content[start + rng.randrange(1, 2000) :]


def _twice(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    end = start + rng.randrange(1, 2000)
    return content[:end] + content[start:]
