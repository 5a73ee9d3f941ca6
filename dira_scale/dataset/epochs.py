"""Steps of a number of epochs, and how many more epochs few images need. Pure arithmetic."""

from decimal import ROUND_CEILING, Context

ROUNDED_UP = Context(prec=2, rounding=ROUND_CEILING)
NEARLY = 0.9  # of the steps that an experiment needed to learn are enough


def steps_of(epochs: float, per_epoch: int) -> int:
    """Return the optimizer steps of a stage of ``epochs``, at least 1."""
    return max(1, round(epochs * per_epoch))


def longer(planned: int, enough: int | None, epoch_factor: float = 1.0, nearly: float = NEARLY) -> float | None:
    """Return the ``epoch_factor`` that plans ``enough`` steps where ``epoch_factor`` plans ``planned``.

    None if those suffice, or nobody has seen how many would (``enough`` is None).
    """
    if enough is None or planned >= nearly * enough:
        return None
    return float(ROUNDED_UP.create_decimal_from_float(epoch_factor * enough / planned))


def smaller_batch(images: int) -> int:
    """Return the largest power of two that ``images`` fill, which divides most queues."""
    return 1 << (int(images).bit_length() - 1)
