"""The kernels of ``prototypes.py`` on GPUs, in Triton: under the names and signatures of the operations there.

Each reads 16 bits and computes in float32. No kernel adds atomically, so two runs are equal.
"""

# mypy: disallow-untyped-defs=False
# Triton gives annotations of kernels a meaning of its own.
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096  # values of a row at a time
TILE = 16, 256  # rows and columns of a sum
CHUNK = 256  # rows of a partial sum


def prototype_sums(
    logits: Tensor, temperature: Tensor, columns: Tensor, weights: Tensor | None, normalised: bool
) -> Tensor:
    """The sums of rows of softmaxes, or of exponentials, times ``weights`` [n]: [K]."""
    count, width = logits.shape
    norms, chunks = columns.new_zeros(count), triton.cdiv(count, CHUNK)
    weights = columns.new_ones(count) if weights is None else weights
    if normalised:
        _norms[(count,)](logits, columns, temperature, norms, width, BLOCK=BLOCK)
    parts = columns.new_empty(chunks, width)
    _sums[triton.cdiv(width, TILE[1]), chunks](
        logits, columns, temperature, weights, norms, parts, count, width,
        CHUNK=CHUNK, ROWS=TILE[0], COLUMNS=TILE[1],
    )  # fmt: skip
    return parts.sum(0)


def prototype_losses(
    student: Tensor, logits: Tensor, columns: Tensor, teacher_temperature: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The cross-entropies [n], and what softmaxes subtract from the student's rows and the teacher's [2, n]."""
    count, width = student.shape
    losses, norms = columns.new_empty(count), columns.new_empty(2, count)
    _losses[(count,)](
        student, logits, columns, teacher_temperature, losses, norms, count, width, 1 / temperature, BLOCK=BLOCK
    )
    return losses, norms


def prototype_gradient(
    gradient: Tensor, student: Tensor, logits: Tensor, columns: Tensor, teacher_temperature: Tensor, norms: Tensor,
    temperature: float,
) -> Tensor:  # fmt: skip
    """The gradient of the student's logits [n, K] by that of the losses [n], in their type."""
    count, width = student.shape
    result = student.new_empty(count, width)
    _gradient[count, triton.cdiv(width, BLOCK)](
        gradient,
        student,
        logits,
        columns,
        teacher_temperature,
        norms,
        result,
        count,
        width,
        1 / temperature,
        BLOCK=BLOCK,
    )
    return result


@triton.jit
def _values(logits, columns, temperature, row, column, width):
    """A teacher's row in some columns, before the exponential; -inf beyond the last."""
    inside, scale = column < width, 1 / tl.load(temperature).to(tl.float32)
    x = tl.load(logits + row.to(tl.int64) * width + column, inside, 0.0).to(tl.float32)
    return tl.where(inside, x * scale + tl.load(columns + column, inside, 0.0), -float("inf"))


@triton.jit
def _norms(logits, columns, temperature, norms, width, BLOCK: tl.constexpr):
    """log sum exp of a row."""
    row = tl.program_id(0)
    most, total = tl.full([], -float("inf"), tl.float32), tl.full([], 0.0, tl.float32)
    for start in range(0, width, BLOCK):
        x = _values(logits, columns, temperature, row, start + tl.arange(0, BLOCK), width)
        now = tl.maximum(most, tl.max(x, 0))
        total = total * tl.exp(most - now) + tl.sum(tl.exp(x - now), 0)
        most = now
    tl.store(norms + row, most + tl.log(total))


@triton.jit
def _sums(
    logits, columns, temperature, weights, norms, parts, count, width,
    CHUNK: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of some columns over a chunk of rows."""
    column, first = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS), tl.program_id(1) * CHUNK
    total = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, CHUNK, ROWS):
        row = first + start + tl.arange(0, ROWS)
        there = row < count
        weight, norm = tl.load(weights + row, there, 0.0), tl.load(norms + row, there, 0.0)
        row = tl.minimum(row, count - 1)  # of weight 0
        x = _values(logits, columns, temperature, row[:, None], column[None, :], width)
        shares = tl.where(weight[:, None] > 0, tl.exp(x - norm[:, None]) * weight[:, None], 0.0)  # a row may overflow
        total += tl.sum(shares, 0)
    tl.store(parts + tl.program_id(1).to(tl.int64) * width + column, total, column < width)


@triton.jit
def _losses(student, logits, columns, temperature, losses, norms, count, width, scale, BLOCK: tl.constexpr):
    """A row's: log sum exp of the student's, less the mean of its values by the teacher's softmax."""
    row, least = tl.program_id(0), -float("inf")
    most, total = tl.full([], least, tl.float32), tl.full([], 0.0, tl.float32)
    their_most, their_total, both = most, total, total
    for start in range(0, width, BLOCK):
        column = start + tl.arange(0, BLOCK)
        inside = column < width
        x = tl.load(student + row.to(tl.int64) * width + column, inside, 0.0).to(tl.float32) * scale
        now = tl.maximum(most, tl.max(tl.where(inside, x, least), 0))
        total = total * tl.exp(most - now) + tl.sum(tl.where(inside, tl.exp(x - now), 0.0), 0)
        most = now
        y = _values(logits, columns, temperature, row, column, width)
        now = tl.maximum(their_most, tl.max(y, 0))
        shrunk, y = tl.exp(their_most - now), tl.exp(y - now)
        their_total = their_total * shrunk + tl.sum(y, 0)
        both = both * shrunk + tl.sum(y * x, 0)
        their_most = now
    norm = most + tl.log(total)
    tl.store(losses + row, norm - both / their_total)
    tl.store(norms + row, norm)
    tl.store(norms + count + row, their_most + tl.log(their_total))


@triton.jit
def _gradient(
    gradient, student, logits, columns, temperature, norms, result, count, width, scale, BLOCK: tl.constexpr
):  # fmt: skip
    """A block of a row's: the student's softmax less the teacher's."""
    row, column = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    x = tl.load(student + row.to(tl.int64) * width + column, inside, 0.0).to(tl.float32) * scale
    y = _values(logits, columns, temperature, row, column, width)
    difference = tl.exp(x - tl.load(norms + row)) - tl.exp(y - tl.load(norms + count + row))
    tl.store(result + row.to(tl.int64) * width + column, difference * (tl.load(gradient + row) * scale), inside)
