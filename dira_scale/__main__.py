"""``dira_scale COMMAND key=value …`` is ``python -m dira_scale.COMMAND key=value …``."""

import sys
from importlib import import_module
from pathlib import Path

from dira_scale import __version__
from dira_scale.base.errors import nearest
from dira_scale.base.termination import end_quietly
from dira_scale.commands import COMMANDS


def main() -> int:
    """Run the command named by the first word; without one, list them."""
    end_quietly(sys.argv[1] if len(sys.argv) > 1 else "dira_scale")
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: dira_scale COMMAND KEY=VALUE ...   (dira_scale COMMAND --help; dira_scale --version)\n")
        print("\n".join(f"  {command.name:<10} {command.help}" for command in COMMANDS.values()))
        return 0
    if sys.argv[1] == "--version":
        print(f"dira_scale {__version__}")
        return 0
    name = sys.argv[1]
    if name not in COMMANDS:
        hint = f"{nearest(name, COMMANDS) or '.'} There are: {', '.join(COMMANDS)}"
        print(f"dira_scale: no command '{name}'{hint}", file=sys.stderr)
        return 2
    sys.path.insert(0, str(Path.cwd()))  # as python -m does: methods and sources of your own are found here
    return int(import_module(f"dira_scale.{name}").main(sys.argv[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
