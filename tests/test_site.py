"""`make docs`: the pages and the API reference as a site, strictly, and without anything from the network."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from needs import need_extra

from dira_scale import api

ROOT = Path(__file__).parents[1]
# What a browser would load by itself; links that a reader follows are none of it.
LOADED = re.compile(
    r'<(?:script|img|iframe|source)\b[^>]*\ssrc="(?=https?:)|<link\b[^>]*stylesheet[^>]*href="(?=https?:)'
)


# 20 s: every page, and the docstrings of a dozen modules.
@pytest.mark.system
def test_the_site_is_built_without_a_warning_and_has_the_api(tmp_path: Path) -> None:
    need_extra("docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*.html")}
    source = ROOT / "docs"
    documents = {path.relative_to(source).with_suffix(".html").as_posix() for path in source.rglob("*.md")}
    assert documents - {"README.html"} <= pages.keys() and "index.html" in pages
    reference = pages["reference/api.html"]
    modules = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "reference" / "api.md").read_text(), re.MULTILINE)
    names = [*modules, *(f"dira_scale.api.{name}" for name in api.__all__)]
    assert [name for name in names if f'id="{name}"' not in reference] == []
    assert {
        name: result
        for name, text in pages.items()
        if (result := [text[m.end() :][:80] for m in LOADED.finditer(text)])
    } == {}
