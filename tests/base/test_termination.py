"""The end of a command when nobody reads on, and at Ctrl-C before it has begun: without a traceback."""

import os
import signal
import subprocess
import sys

import pytest

START = "from dira_scale.base.termination import end_quietly; end_quietly('embed'); "


def end(*words: str, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of a Python whose standard output nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ended = subprocess.run(
            [sys.executable, *words], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120,
            env=os.environ | {"PYTHONUNBUFFERED": ""} | environment,
        )  # fmt: skip
    finally:
        os.close(writing)
    return ended.returncode, ended.stderr


def test_ctrl_c_at_the_start_is_one_line_and_one_code() -> None:
    code, error = end("-c", f"{START}raise KeyboardInterrupt")
    assert code == 75 and error.count("\n") == 2 and "embed: interrupted" in error


@pytest.mark.parametrize("size", [10, 10**6])
def test_a_closed_pipe_leaves_no_traceback(size: int) -> None:
    """Text of a buffer is dropped at the end, after all is done; else the signal ends it, as it ends any program."""
    code, error = end("-c", f"{START}print('a' * {size})")
    assert (code, error) == (0 if size == 10 else -signal.SIGPIPE, "")


def test_another_broken_pipe_is_an_error() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"{START}raise BrokenPipeError('a worker')"], capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1 and "a worker" in ended.stderr


@pytest.mark.parametrize("words", [["dira_scale.report", "--help"], ["dira_scale"]])
def test_commands_end_so(words: list[str]) -> None:
    assert end("-m", *words, PYTHONUNBUFFERED="1") == (-signal.SIGPIPE, "")
