"""The libraries that compute metrics of labels, masks and numbers: the extra ``evaluation``."""

from importlib.util import find_spec

from dira_scale.errors import UserError

LIBRARIES = ("torchmetrics", "monai")


def require_libraries(_: object = None) -> None:
    """Ask before training whether what computes its metrics is there; nothing is imported, which takes seconds.

    Raises UserError: one line that names what is missing and how to install it.
    """
    if missing := [name for name in LIBRARIES if find_spec(name) is None]:
        raise UserError(
            f"metrics need the extra `evaluation` ({' and '.join(missing)} not installed): python3 setup/install.py "
            "evaluation in a checkout, or pip install 'dira_scale[evaluation]'"
        )
