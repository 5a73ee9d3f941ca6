"""Every message that the troubleshooting page quotes is in the code, ``…`` for what is filled in."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"


def messages(path: Path) -> list[str]:
    """The texts in a source file, f-strings with ``…`` for their expressions."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(str(v.value) if isinstance(v, ast.Constant) else "…" for v in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


def quoted() -> list[str]:
    """The first cells of the page's tables that are all of a message, in backticks."""
    return re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)


def test_the_quoted_messages_are_printed_by_the_code() -> None:
    source = [text for path in (ROOT / "dira_scale").rglob("*.py") for text in messages(path)]
    assert len(quoted()) > 20
    assert [text for text in quoted() if not any(text in message for message in source)] == []
