"""What the Python of a GPU container must have, and what is carried to it.

Needs only the standard library, as ``setup/gpu.py`` reads the lists before anything is installed.
"""

import importlib.util

# Packages of the container, with all that they depend on, without which nothing can be measured.
REQUIRED = ("torch", "timm", "numpy")
# Package -> a module to test for its presence: what the check needs besides, if the container lacks it, as wheels.
# pyarrow, scipy, scikit-image, scikit-learn, OpenCV and TensorBoard are too large to be carried.
CARRIED = {
    "hydra-core": "hydra", "omegaconf": "omegaconf", "antlr4-python3-runtime": "antlr4", "pyyaml": "yaml",
    "accelerate": "accelerate", "psutil": "psutil", "safetensors": "safetensors", "xxhash": "xxhash",
    "segmentation-models-pytorch": "segmentation_models_pytorch", "packaging": "packaging", "tqdm": "tqdm",
    "pytest": "pytest", "pytest-timeout": "pytest_timeout", "pluggy": "pluggy", "iniconfig": "iniconfig",
    "pygments": "pygments", "rich": "rich", "markdown-it-py": "markdown_it", "mdurl": "mdurl", "pydicom": "pydicom",
    "etils": "etils", "imagecodecs": "imagecodecs", "simplejpeg": "simplejpeg", "monai": "monai",
}  # fmt: skip


def missing() -> list[str]:
    """The packages of ``CARRIED`` that this Python lacks."""
    return [name for name, module in CARRIED.items() if importlib.util.find_spec(module) is None]
