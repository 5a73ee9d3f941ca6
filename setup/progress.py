"""One line of progress for a long ``pip install`` (or ``uv pip install``); its own output goes into a log."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

# pip is about to fetch a wheel (or only its metadata): the wheel's file name, and the rest of the line
WHEEL = re.compile(r"(?:Downloading|Using cached|Processing) (?:\S*/)?(\S+\.whl)(.*)")
INSTALLING = "Installing collected packages:"


def show_progress(title: str, command: list, log: Path, site_packages: Path) -> int:
    """Run the installer's ``command`` to its end and return its exit status.

    On a terminal the line is updated in place; elsewhere a new one is printed every 15 s.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout
    line, rest = _Line(title, site_packages), b""
    try:
        with log.open("ab") as file:
            while True:
                if not select.select([process.stdout], [], [], 0.3)[0]:
                    line.show()
                    continue
                if not (output := os.read(process.stdout.fileno(), 65536)):
                    break
                file.write(output)
                file.flush()
                *lines, rest = re.split(rb"[\r\n]+", rest + output)
                for each in lines:
                    line.read(each.decode(errors="replace"))
        code = process.wait()
    finally:
        process.terminate()
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    print(f"{clear}{title:12} {time.monotonic() - line.start:.0f} s", flush=True)
    return code


class _Line:
    def __init__(self, title: str, site_packages: Path) -> None:
        self.title, self.site_packages = title, site_packages
        self.start = self.shown = time.monotonic()
        self.fetched, self.doing = 0, "resolving dependencies"
        self.waiting: list[str] = []

    def read(self, output: str) -> None:
        """Update the state from a line of pip's output."""
        if (wheel := WHEEL.search(unquote(output))) and not wheel[2].startswith(".metadata"):
            self.fetched += 1
            self.doing = f"fetching {wheel[1]}{wheel[2].partition(' (from')[0]}, {self.fetched} so far"
        elif output.startswith("Downloading "):  # uv's line: package and size
            self.doing = output.strip()
        elif output.startswith(INSTALLING):
            self.waiting = [_folded(name) for name in output.removeprefix(INSTALLING).split(",")]
        self.show()

    def show(self) -> None:
        if sys.stdout.isatty():
            print(f"\r\033[K{self._text()}"[: shutil.get_terminal_size().columns], end="", flush=True)
        elif time.monotonic() - self.shown > 15:
            print(self._text(), flush=True)
            self.shown = time.monotonic()

    def _text(self) -> str:
        spent = time.monotonic() - self.start
        clock = f"{self.title:12} {int(spent) // 60}:{int(spent) % 60:02d}"
        if not self.waiting:
            return f"{clock}  {self.doing}"
        present = {_folded(path.name.split("-")[0]) for path in self.site_packages.glob("*.dist-info")}
        done, total = sum(name in present for name in self.waiting), len(self.waiting)
        to_go = spent * (total - done) / (total + done)  # unpacking takes about as long as fetching did
        return f"{clock}  unpacking {done} of {total}, about {to_go:.0f} s to go"


def _folded(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name.strip()).lower()
