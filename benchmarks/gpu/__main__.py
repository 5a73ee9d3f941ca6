"""``python -m dira_scale.bench gpu``: see benchmarks/gpu/parts.py."""

import sys

from benchmarks.gpu.parts import main

if code := main():
    sys.exit(code)
