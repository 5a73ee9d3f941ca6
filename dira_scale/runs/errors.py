"""What ends a run on all of its processes alike."""


class RunEndedError(Exception):
    """Training cannot go on. Raised on all processes; the message goes into status.json.

    Attributes:
        reported: whether the message has already been logged.
    """

    reported = False
