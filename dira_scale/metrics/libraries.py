"""The library that computes metrics of masks and Grad-CAM: the extra ``evaluation``."""

from importlib.util import find_spec

from dira_scale.errors import UserError


def require_libraries(_: object = None) -> None:
    """Ask before training whether what computes metrics is there; nothing is imported, which takes seconds.

    Raises UserError: one line that names what is missing and how to install it.
    """
    if find_spec("monai") is None:
        raise UserError(
            "metrics need the extra `evaluation` (monai not installed): python3 setup/install.py evaluation in a "
            "checkout, or pip install 'dira_scale[evaluation]'"
        )
