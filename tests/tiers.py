"""The tiers of the tests: what begins first, and how long a tier took beside what docs/evidence/testing.md says."""

import os
import platform
import re
import time
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "evidence" / "testing.md"
TIERS = {
    "not system and not torture and not gpu": "make test",
    "system and not torture and not gpu": "make test-system",
}


class Tier:
    """A plug-in of one call of pytest."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Whole runs first: a worker that begins one last would be the only one that works."""
        items.sort(key=lambda item: "system" not in item.path.parts)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
        if (tier := TIERS.get(config.option.markexpr)) is None:
            return
        seconds = time.monotonic() - self.began
        terminalreporter.section(f"{tier}: {seconds // 60:.0f} min {seconds % 60:02.0f} s on {processor()}")
        for line in PAGE.read_text().splitlines():
            if line.startswith(f"| `{tier}`"):
                terminalreporter.line(f"docs/evidence/testing.md: {line.strip('| ')}")


def processor() -> str:
    """Cores that may be used, kind, and the instructions that decide how fast it computes."""
    try:
        known = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    name = re.search(r"model name\s*:\s*(.*)", known)
    flags = {flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {flag} " in known}
    return f"{len(os.sched_getaffinity(0))} x {name[1] if name else 'unknown'} ({', '.join(sorted(flags))})"
