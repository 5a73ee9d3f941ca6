"""``dira_scale COMMAND`` beside ``python -m dira_scale.COMMAND``."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale import __main__, __version__


def dira_scale(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dira_scale", *words])
    return __main__.main()


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert dira_scale(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"dira_scale {__version__}\n"


def test_modules_in_the_current_folder_are_found_as_by_python_m(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_method_of_mine.py").write_text("CODE = 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    command = SimpleNamespace(main=lambda argv: importlib.import_module("a_method_of_mine").CODE)
    monkeypatch.setattr(__main__, "import_module", lambda name: command)
    assert dira_scale(monkeypatch, "doctor") == 7


def test_an_unknown_command_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dira_scale(monkeypatch, "pretrian") == 2
    assert "did you mean 'pretrain'" in capsys.readouterr().err


def test_an_old_python_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any package is imported, which it may lack."""
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    source = Path(__main__.__file__).with_name("__init__.py").read_text()
    with pytest.raises(SystemExit, match=r"^dira_scale needs Python 3\.11 or newer; .* is "):
        exec(compile(source, "__init__.py", "exec"), {"__name__": "dira_scale"})
