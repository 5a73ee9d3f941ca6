"""Puts this folder's commands in the place of the package's, in every Python that has the folder on its path."""

from pathlib import Path

import dira_scale

dira_scale.__path__.insert(0, str(Path(__file__).parent))
