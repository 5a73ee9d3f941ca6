"""The container files: both run the same steps. (`build.sh` itself has run in an empty Debian 12, the images have not
been built: docs/how-to/slurm.md.)"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "setup" / "container"


def test_both_images_start_from_the_same_system_and_install_the_same_extras() -> None:
    docker, apptainer = ((FOLDER / name).read_text() for name in ("Dockerfile", "dira_scale.def"))
    assert re.findall(r"^(?:FROM|From:) (\S+)$", docker + apptainer, re.MULTILINE) == ["debian:12-slim"] * 2
    requested = re.search(r'^ARG EXTRAS="(.*)"$', docker, re.MULTILINE)
    given = re.search(r"build\.sh (.*)$", apptainer, re.MULTILINE)
    assert requested and given and requested[1] == given[1]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(given[1].split()) <= project["optional-dependencies"].keys()
    path = "/opt/dira_scale/.venv/bin:$PATH"
    assert f"ENV PATH={path}" in docker and f"export PATH={path}" in apptainer
