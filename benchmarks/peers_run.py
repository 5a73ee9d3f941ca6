"""What ``peers.py`` runs in the environment that it makes, where dira_scale is not.

    python -m benchmarks.peers_run loader|loader3d FOLDER

It says who takes part, then takes a turn for each line that it reads: {"name", "seconds"}.
"""

import json
import os
import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the packages print
    kind = import_module(f"benchmarks.{sys.argv[1]}.peers")
    turns, sizes = kind.contenders(Path(sys.argv[2]))
    print(json.dumps({"sizes": sizes, "packages": {name: version(name) for name in kind.PACKAGES}}), file=answers)
    for line in sys.stdin:
        requested = json.loads(line)
        print(json.dumps(turns[requested["name"]](requested["seconds"])), file=answers)


if __name__ == "__main__":
    main()
