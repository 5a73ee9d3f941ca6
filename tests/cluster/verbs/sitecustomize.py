"""Adds this folder's verbs to the package, in every Python that has the folder on its path."""

from pathlib import Path

import dira_scale

dira_scale.__path__.append(str(Path(__file__).parent))
