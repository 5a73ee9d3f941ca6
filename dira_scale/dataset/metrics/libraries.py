"""The library that computes metrics of masks and Grad-CAM: the extra ``evaluation``."""

from dira_scale.base.errors import require


def require_libraries(_: object = None) -> None:
    """Ask before training whether what computes its metrics is there. Raises UserError, one line."""
    require("metrics need", "evaluation", "monai")
