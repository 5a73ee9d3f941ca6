"""``python -m dira_scale.toy number=N out=FOLDER``: a command of its own, as small as one can be
(test_new_command.py)."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command(
    "toy", "the square of a number", "dira_scale.toy.work:write_square", output="out",
    in_sweeps=True, execution=("workers",),
    check="dira_scale.toy.work:check", results="dira_scale.toy.work:results",
)  # fmt: skip

main = entry(COMMAND)
