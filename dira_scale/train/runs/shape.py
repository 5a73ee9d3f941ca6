"""Reading of untrusted JSON: its types, bounds and keys are checked before it is used."""

from typing import Annotated, Any

from dira_scale.base.arguments import ArgumentError, AtLeast, Within, converted
from dira_scale.base.errors import UserError

VIEW = 2**27  # pixels of a view: a volume of 512 x 512 x 512
SIDE = Annotated[int, Within(1, 2**16)]  # of a view, in pixels
CHANNELS = Annotated[int, Within(1, 2**16)]  # of a network
STEP = Annotated[int, AtLeast(0)]


def shaped(kind: Any, value: Any, repair: str, name: str = "") -> Any:
    """``value`` of JSON as a ``kind``: a dataclass, of which it has all keys without a default and no others (an older
    version may not have written the rest); a TypedDict, which says the types of some keys; or a type of such.

    Args:
        repair: what to do about a damaged file, for messages.
        name: of the value, for messages.

    Raises UserError naming the key.
    """
    try:
        return converted(kind, value, name, exact=True)
    except ArgumentError as error:
        raise UserError(f"{error}; {repair}") from error
