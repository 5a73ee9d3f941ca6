"""A command that knows no signals."""

import time

from dira_scale.command import Command

COMMAND = Command("sleeping", "")

if __name__ == "__main__":
    print("asleep")
    time.sleep(600)
