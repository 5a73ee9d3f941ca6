"""Errors that end a run on all of its processes alike."""


class RunEndedError(Exception):
    """Training cannot continue. Raised on all processes; the message goes into status.json.

    Attributes:
        reported: whether the message has already been logged.
    """

    reported = False
