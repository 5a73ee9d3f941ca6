"""What ends a run on all of its processes alike."""


class RunEndedError(Exception):
    """Training cannot go on. Raised on all processes; the message goes into status.json.

    Attributes:
        said: whether the message has been shown already.
    """

    said = False
