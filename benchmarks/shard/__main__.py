"""Sharding: images/s compared with a bare decoder + encoder.

    python -m dira_scale.bench shard [--json out/shard.json] [--sources dicom png mhd]

The writer against a bare loop of decoding and encoding the same files, both with 1 and 2 processes and in turns, from
each process's first images on. The share is of CPU time per image, which hardly depends on other load, as a median over
the rounds; images/s are wall time. Radiographs are phantoms of 1024 x 1024: 12 bits in DICOM, or 16-bit PNG; volumes
are noise over a smooth body, 512 x 512 x 200, MetaImage.
"""

import argparse
import itertools
import json
import os
import platform
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.shard.speed import CASES, make_inputs, speed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results here too")
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sources", nargs="+", default=["dicom", "png", "mhd"])
    arguments = parser.parse_args()
    result: dict[str, Any] = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()}
    result |= {"load": os.getloadavg()[0], "speed": []}
    with tempfile.TemporaryDirectory() as name:
        inputs = make_inputs(Path(name))
        cases = [case for case in CASES if case.source in arguments.sources]
        print("\nsource codec bits processes   limit/s  writer/s   ms/image   share  (of each round)")
        for case, processes in itertools.product(cases, arguments.processes):
            row = speed(case, inputs[case.source], processes, arguments.rounds)
            result["speed"].append(row)
            shares = " ".join(f"{share:.2f}" for share in row["shares"])
            print(
                f"{row['source']:6} {row['codec']:5} {row['bits']:4} {row['processes']:9} {row['limit']:9.2f} "
                f"{row['writer']:9.2f} {row['processor_ms']:10.1f} {row['share']:7.2f}  ({shares})",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
