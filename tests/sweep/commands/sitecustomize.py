"""Adds this folder's commands to the package, in every Python that has the folder on its path."""

from pathlib import Path

import dira_scale
from dira_scale import commands

dira_scale.__path__.append(str(Path(__file__).parent))
commands.NAMES += tuple(file.stem for file in Path(__file__).parent.glob("*ing.py"))
