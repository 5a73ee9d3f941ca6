"""``python -m dira_scale.doctor``: what this machine has and lacks, and the launch command to use."""

from dira_scale.cli import entry
from dira_scale.command import Command

COMMAND = Command("doctor", "show what this machine has and lacks", "dira_scale.doctor.survey:survey", torch=False)

main = entry(COMMAND)
