"""Jinja templates of pages, and how these write numbers."""

import re
from base64 import b64encode
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from dira_scale import __version__
from dira_scale.base.errors import counted, duration, without_commands
from dira_scale.base.storage.text import last_parts

IMAGE = re.compile(r"(?<![\w./:])(an )?image(s?)\b(?!/png|/jpeg|=|\.\w)")  # the word, in no key and no address


class _Page(Template):
    def render(self, *args: Any, **kwargs: Any) -> str:
        """The page, in which no text of a stranger commands the terminal that shows the file."""
        return without_commands(super().render(*args, **kwargs))


@cache  # a page that is watched is made again and again
def template(file: Path) -> Template:
    """The Jinja template ``file``; it can extend and include those of this folder."""
    environment = Environment(
        loader=FileSystemLoader([file.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"duration": duration, "rate": rate, "code": _code, "counted": counted}
    environment.filters["last_parts"], environment.globals["version"] = last_parts, __version__
    environment.template_class = _Page
    return environment.get_template(file.name)


def _code(text: str) -> str:
    """``text`` as HTML, what is in backticks as code."""
    return re.sub("`(.+?)`", r"<code>\1</code>", escape(text))


def of_volumes(text: str) -> str:
    """``text`` about images, of volumes."""
    return IMAGE.sub(lambda match: f"{'a ' if match[1] else ''}volume{match[2]}", text)


def data_url(kind: str, content: bytes) -> str:
    """Return the address of a picture that stands in the page itself; ``kind``: ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{b64encode(content).decode()}"


def rate(speed: float) -> str:
    """``0.4``, ``7.5``, ``120``."""
    return f"{speed:.{0 if speed >= 10 else 1}f}"
