"""How long the processes of a run wait for each other, for disks and for signs of life, in one place."""

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds; ours: long enough for a slow store, short enough for a person who waits."""

    beat: float = 5.0  # between two beats of a lease
    still: float = 60.0  # a beat that stood still for so long, by one's own clock, is a dead holder's
    pulse: float = 1.0  # between two signs of life of processes that write or read a checkpoint
    work: float = 1800.0  # a disk or store that takes longer for what one process writes or reads hangs
    linger: float = 15.0  # for the stacks of all: the first process to end makes a launcher end the others
    last: float = 60.0  # to write down why a run ended


TIMINGS = Timings()  # read where it is waited: tests shorten it
