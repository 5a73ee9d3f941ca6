"""The tables of names in docs/reference/api.md, from the modules: ``python tests/api_page.py`` writes them into the
page, and ``test_api.py`` compares."""

import inspect
import re
from importlib import import_module
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "api.md"
TABLE = re.compile(r"(<!-- names: (.*) -->\n)\n(?:\|.*\n)*")


def filled(page: str) -> str:
    """The page with the table below each ``<!-- names: MODULES -->``."""
    return TABLE.sub(lambda found: f"{found[1]}\n{table(found[2].split())}", page)


def table(modules: list[str]) -> str:
    rows = [row for module in modules for row in names(f"dira_scale.{module}")]
    return "\n".join(["| name | |", "|---|---|", *rows]) + "\n"


def names(module: str) -> list[str]:
    """A row for each public class and function of a module, in the order of its text; of methods the classes alone."""
    own = [each for each in vars(import_module(module)).items() if getattr(each[1], "__module__", None) == module]
    kinds = (inspect.isclass,) if ".methods." in module else (inspect.isclass, inspect.isfunction)
    made = [(name, value) for name, value in own if name[0] != "_" and any(kind(value) for kind in kinds)]
    where = module.removeprefix("dira_scale.")
    return [f"| `{where}.{name}{signature(value)}` | {summary(value)} |" for name, value in made]


def signature(value: object) -> str:
    """Its parameters with their defaults, without types, as one would type them."""
    assert callable(value)
    try:
        parameters = inspect.signature(value).parameters.values()
    except ValueError:  # a class that is not made by calling it
        return ""
    text = str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in parameters]))
    text = re.sub(r"<(?:class '(?:\w+\.)*)?(\w+).*?>", r"\1", text)  # a default that is a class or a function
    return re.sub(r"mappingproxy\((\{.*?\})\)", r"\1", text).replace("|", "\\|")


def summary(value: object) -> str:
    """The first sentence of its docstring."""
    text = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    first = re.split(r"(?<=\.)\s(?=[A-Z`])", text)[0]
    return re.sub(r":\w+:(?=`)", "", first).replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
