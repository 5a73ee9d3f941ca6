"""``pretrain`` that only counts its steps (commands/counting.py), and leaves what a sweep's results are read from."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "stand_ins"))
from stand_in import row

COMMAND = row("pretrain")
PAUSE = 0.05  # seconds after a step

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "commands"))
    import counting

    sys.argv.append(f"pause={PAUSE}")
    code = counting.main()
    if code == 0:
        run = Path(next(word for word in sys.argv if word.startswith("run=")).removeprefix("run="))
        steps = len((run / "steps").read_text().splitlines())
        row = {"step": steps, "stage": "di", "split": "val", "loss": 1 / steps}
        (run / "metrics.jsonl").write_text(json.dumps(row) + "\n")
        (run / "config.yaml").write_text("{}\n")
    raise SystemExit(code)
