import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from stand_in import row, stand_in

COMMAND = row("pretrain")

if __name__ == "__main__":
    raise SystemExit(stand_in("run"))
