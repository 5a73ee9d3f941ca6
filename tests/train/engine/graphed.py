"""``python graphed.py WORD…``: pretraining on a CPU by a GPU's operations, whose steps a tape (``tape.py``) replays."""

import sys

from train.engine.tape import Tape, as_on_a_gpu

from dira_scale.pretrain import main

if __name__ == "__main__":
    as_on_a_gpu(lambda owner, name, value: setattr(owner, name, value))
    code = main(sys.argv[1:])
    print(f"replayed {Tape.replayed}")
    sys.exit(code)
