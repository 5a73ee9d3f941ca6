"""``python moments.py MODULE KEY=VALUE …``: run it, and strike this process at moments that the environment names."""

import os
import runpy
import sys
from collections import Counter
from pathlib import Path
from typing import Any

MOMENTS = "DIRA_SCALE_TEST_MOMENTS"  # SIGNAL EVENT:END OF A PATH:COUNT …, for the process that strikes itself


def _strike_at_the_moments() -> None:
    by, *moments = os.environ.pop(MOMENTS).split()
    seen: Counter[str] = Counter()

    def watch(name: str, arguments: tuple[Any, ...]) -> None:
        for moment in moments:
            event, end, count = moment.rsplit(":", 2)
            if name == event and any(str(argument).endswith(end) for argument in arguments):
                seen[moment] += 1
                if seen[moment] == int(count):
                    os.kill(os.getpid(), int(by))

    sys.addaudithook(watch)


if __name__ == "__main__":
    if MOMENTS in os.environ:
        _strike_at_the_moments()
    sys.path[0] = str(Path.cwd())  # as with -m
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
