"""rich's console, on which foreign text cannot command the terminal."""

from typing import Any

import rich.console
from rich.text import Text

from dira_scale.base.errors import printable


class Console(rich.console.Console):
    """Texts, also a table's cells, are shown with unprintable characters escaped: names may be a stranger's."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str("\n".join(map(printable, text.split("\n"))), **options)
