"""Adds this folder's verbs to the package, in every Python that has the folder on its path."""

from pathlib import Path

import dira_scale
from dira_scale.verbs import VERBS, Verb

dira_scale.__path__.append(str(Path(__file__).parent))
VERBS |= {file.stem: Verb(file.stem, "") for file in Path(__file__).parent.glob("*ing.py")}
