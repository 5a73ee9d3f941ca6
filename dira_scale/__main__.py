"""``dira-scale VERB key=value …`` is ``python -m dira_scale.VERB key=value …``."""

import sys
from importlib import import_module
from pathlib import Path

from dira_scale import __version__
from dira_scale.errors import end_quietly, nearest
from dira_scale.verbs import VERBS


def main() -> int:
    """Run the verb named by the first word; without one, list them."""
    end_quietly(sys.argv[1] if len(sys.argv) > 1 else "dira-scale")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: dira-scale COMMAND KEY=VALUE ...   (dira-scale COMMAND --help; dira-scale --version)\n")
        print("\n".join(f"  {verb.name:<10} {verb.help}" for verb in VERBS.values()))
        return 0
    if sys.argv[1] == "--version":
        print(f"dira_scale {__version__}")
        return 0
    verb = sys.argv[1]
    if verb not in VERBS:
        print(
            f"dira-scale: no command '{verb}'{nearest(verb, VERBS) or '.'} There are: {', '.join(VERBS)}",
            file=sys.stderr,
        )
        return 2
    sys.path.insert(0, str(Path.cwd()))  # as python -m does: methods and sources of your own are found here
    return int(import_module(f"dira_scale.{verb}").main(sys.argv[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
