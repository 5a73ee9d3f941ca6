"""Time limits of processes that wait for each other, for disks and for signs of life."""

from dataclasses import dataclass


@dataclass
class Timings:
    """Seconds. Our choice: long enough for a slow store, short enough for a person who waits."""

    beat: float = 5.0  # between two beats of a lease
    dead_after: float = 60.0  # a lease whose beat has not moved for so long, by the observer's clock, is abandoned
    pulse: float = 1.0  # between two signs of life of processes that write or read a checkpoint
    hang_after: float = 1800.0  # a disk or store that takes longer for one process's share of a checkpoint hangs
    after_loss: float = 30.0  # without a step, once another process is gone
    linger: float = 15.0  # until all have written their stacks: a launcher ends all soon after the first has ended
    exit_report: float = 60.0  # to record why a run ended
    tracker: float = 30.0  # between two tries to send rows to a tracker, and for the last ones when a run ends


TIMINGS = Timings()  # read at each wait, so that tests can shorten it
