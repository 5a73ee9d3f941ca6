"""The page on experiments says what configs/ composes, and knows every experiment."""

import re

import pytest
from experiments_page import EXPERIMENTS, PAGE, filled


@pytest.mark.system
def test_the_tables_are_what_is_composed() -> None:
    """If not: ``python tests/experiments_page.py`` writes them."""
    page = PAGE.read_text()
    assert filled(page) == page


def test_every_experiment_has_a_row() -> None:
    named = " ".join(re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", PAGE.read_text(), re.MULTILINE))
    assert [path.stem for path in EXPERIMENTS.glob("*.yaml") if f"`{path.stem}`" not in named] == []
