"""``python -m dira_scale.counting run=FOLDER steps=N``: what a run that trains looks like from outside, in 50 ms.

A step is a line in ``steps`` and ``pause`` seconds. Every step is a checkpoint, or every ``every``-th and the last one;
a later start resumes there. ``fail_at``: exits with ``code`` before that step (negative: killed by that signal), if
given on the node ``on`` only. While a file ``hold`` lies beside FOLDER, the step in it is the last one. A later
start takes the run over, as by the real lease: this one makes no more steps then.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from dira_scale.command import Command

COMMAND = Command("counting", "")


def main() -> int:
    words = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    run, steps = Path(words["run"]), int(words["steps"])
    run.mkdir(parents=True, exist_ok=True)
    status, lines, hold = run / "status.json", run / "steps", run.parent / "hold"
    before = json.loads(status.read_text()) if status.exists() else {"lease": 0}
    saved = max((file.name for file in run.glob("checkpoints/*")), default="0")
    step, lease, signals = int(saved), before["lease"] + 1, []
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: signals.append(number))
    kept = lines.read_text().splitlines()[:step] if lines.exists() else []

    def write(state: str, code: int | None, reason: str = "") -> None:
        content = {"state": state, "step": step, "lease": lease, "exit_code": code, "reason": reason}
        content |= {"try": os.environ["DIRA_SCALE_TRY"]} if "DIRA_SCALE_TRY" in os.environ else {}
        temporary = run / f".status.{os.getpid()}"
        temporary.write_text(json.dumps(content))
        temporary.replace(status)

    def save() -> None:
        (run / "checkpoints" / f"{step:09d}").mkdir(
            parents=True, exist_ok=True
        )  # one taken over may just have saved it

    write("running", None)
    lines.write_text("".join(f"{line}\n" for line in kept))
    while step < steps:
        if json.loads(status.read_text())["lease"] > lease:
            print(f"{run} was taken over")
            return 1
        if signals:
            save()
            write("interrupted", 75)
            return 75
        if hold.exists() and step >= int(hold.read_text()):
            time.sleep(0.02)
            continue
        if step + 1 == int(words.get("fail_at", 0)) and words.get("on") in (None, os.environ.get("SLURMD_NODENAME")):
            if (code := int(words["code"])) < 0:
                os.kill(os.getpid(), -code)
            write("failed", code, f"no step {step + 1}")
            return code
        with lines.open("a") as file:
            file.write(f"{step + 1}\n")
        step += 1
        if step % int(words.get("every", 1)) == 0 or step == steps:
            save()
        write("running", None)
        time.sleep(float(words.get("pause", 0)))
    write("done", 0)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
