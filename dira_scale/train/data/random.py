"""Counter-based random numbers: a number depends on what it is for, never on when or where it is drawn.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11) turns a 128-bit counter and a
64-bit key into 128 random bits. The key is the run's seed; the counter encodes the number's epoch, sample, occurrence
of the sample in the epoch, view and purpose. So the numbers depend neither on workers nor on batching.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

OCCURRENCES = 2**16  # of a sample within an epoch, at most
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_MIX_MULTIPLIERS = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_MIX_SHIFTS = np.uint64(30), np.uint64(27), np.uint64(31)
_FEISTEL_ROUNDS = 16  # with 8, permutations of five elements are visibly uneven
_LOW, _SHIFT = np.uint64(0xFFFFFFFF), np.uint64(32)


def philox(counter: Iterable[int | np.ndarray], key: Iterable[int | np.ndarray]) -> np.ndarray:
    """Philox4x32-10 of a ``counter`` of four words under a ``key`` of two: four random words, the last axis [..., 4].

    Given words are 32-bit numbers, or arrays of them that broadcast; those returned are uint32.
    """
    a, b, c, d = map(_u64, counter)
    k, m = map(_u64, key)
    for _ in range(10):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (right >> _SHIFT) ^ (b ^ k), right & _LOW, (left >> _SHIFT) ^ (d ^ m), left & _LOW
        k, m = (k + _WEYL[0]) & _LOW, (m + _WEYL[1]) & _LOW
    words = np.empty((*np.broadcast_shapes(a.shape, b.shape, c.shape, d.shape), 4), np.uint32)
    words[..., 0], words[..., 1], words[..., 2], words[..., 3] = a, b, c, d
    return words


def uniform(
    seed: int,
    epoch: int | np.ndarray,
    index: np.ndarray,
    occurrence: np.ndarray,
    view: int,
    n: int,
    stream: int,
    first: int = 0,
) -> np.ndarray:
    """``n`` numbers in [0, 1) for each sample: float64 [b, n], multiples of 2^-32.

    Args:
        seed: of the run; 64 bits.
        epoch: 32 bits; int64 [b] where it differs by sample.
        view, stream: 8 bits each; a stream per purpose that needs independent numbers.
        index: int64 [b], the samples; 48 bits.
        occurrence: int64 [b], which repetition of the sample within the epoch; 16 bits.
        first: how many numbers of the stream to leave out, a multiple of 4.
    """
    assert 0 <= view < 2**8 and 0 <= stream < 2**8 and n > 0 and first + n <= 2**18 and first % 4 == 0
    index, occurrence = np.asarray(index, np.int64), np.asarray(occurrence, np.int64)
    epoch = np.broadcast_to(np.asarray(epoch, np.int64), index.shape)
    assert ((epoch >= 0) & (epoch < 2**32)).all()
    assert ((index >= 0) & (index < 2**48) & (occurrence >= 0) & (occurrence < OCCURRENCES)).all()
    draw = first // 4 + np.arange(-(-n // 4))
    counter = (
        draw + (view << 16) + (stream << 24),
        epoch[:, None],
        index[:, None] & 0xFFFFFFFF,
        (index[:, None] >> 32) + (occurrence[:, None] << 16),
    )
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF))
    return words.reshape(len(index), 4 * len(draw))[:, :n] * 2.0**-32


def between(u: np.ndarray, low: float, high: float) -> np.ndarray:
    """Numbers from ``low`` to ``high`` by ``u``, uniform in [0, 1)."""
    return low + (high - low) * u


def integers(u: np.ndarray, low: int | np.ndarray, high: int | np.ndarray) -> np.ndarray:
    """Integers from ``low`` to ``high``, inclusive, by ``u``, uniform in [0, 1)."""
    return low + (u * (high - low + 1)).astype(np.int64)


def key(*parts: object) -> int:
    """Return a 64-bit key from all parts: the start of the SHA-256 of their ``repr``."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "little")


def mix(x: np.ndarray) -> np.ndarray:
    """Return a well-mixing bijection of uint64: the finaliser of SplitMix64 (Steele et al., OOPSLA'14). Not for
    secrets."""
    x = (x ^ (x >> _MIX_SHIFTS[0])) * _MIX_MULTIPLIERS[0]
    x = (x ^ (x >> _MIX_SHIFTS[1])) * _MIX_MULTIPLIERS[1]
    return x ^ (x >> _MIX_SHIFTS[2])


def permute(x: np.ndarray, n: int | np.ndarray, key: int | np.ndarray) -> np.ndarray:
    """Return a keyed bijection of {0, …, n - 1}, applied to int64 ``x``; ``n`` and ``key`` (uint64) may differ by
    element.

    A Feistel network over Z_a x Z_b, a * b >= n (Black and Rogaway, "Ciphers with arbitrary finite domains",
    CT-RSA'02: the generalised Feistel cipher with cycle walking): values outside the range go through it again.
    """
    x, n, key = (array.copy() for array in np.broadcast_arrays(_u64(x), _u64(n), _u64(key)))
    a = np.ceil(np.sqrt(n)).astype(np.uint64)
    b = (n + a - _u64(1)) // a
    todo = np.arange(x.size)
    flat = x.reshape(-1)
    while todo.size:
        flat[todo] = _feistel(flat[todo], *(array.reshape(-1)[todo] for array in (a, b, key)))
        todo = todo[flat[todo] >= n.reshape(-1)[todo]]
    return x.astype(np.int64)


def _feistel(x: np.ndarray, a: np.ndarray, b: np.ndarray, key: np.ndarray) -> np.ndarray:
    left, right = np.divmod(x, b)
    round_keys = mix(key + np.arange(1, _FEISTEL_ROUNDS + 1, dtype=np.uint64)[:, None])
    for number, round_key in enumerate(round_keys, 1):
        if number % 2:
            left = (left + mix(right ^ round_key) % a) % a
        else:
            right = (right + mix(left ^ round_key) % b) % b
    return left * b + right


def _u64(x: int | np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(np.uint64)
