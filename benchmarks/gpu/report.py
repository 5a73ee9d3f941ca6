"""The results: ``gpu.json``, which is updated with every figure."""

import json
from pathlib import Path
from typing import Any

from dira_scale.storage.atomic import write_json


class Report:
    """The file in ``folder``, written anew by each :meth:`add`: whatever ends the process leaves all before it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "gpu.json"

    def read(self) -> dict[str, Any]:
        """All so far."""
        result: dict[str, Any] = json.loads(self.file.read_text()) if self.file.exists() else {}
        return result

    def add(self, **figures: Any) -> None:
        """Put these beside what is there, or in its place."""
        write_json(self.file, self.read() | figures)
