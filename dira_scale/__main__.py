"""``dira-scale VERB key=value …`` is ``python -m dira_scale.VERB key=value …``."""

import sys
from importlib import import_module

from dira_scale.errors import nearest

VERBS = {
    "shard": "medical images into shards",
    "plan": "memory, traffic, hours and cost of a run, before it",
    "pretrain": "self-supervised pretraining",
    "probe": "what frozen features know, beside random ones and raw pixels",
    "export": "weights that plain timm and smp load",
    "report": "one HTML page of a run",
    "doctor": "what this machine has and lacks",
    "bench": "how fast it is here, beside what it could be",
}


def main() -> int:
    """Run the verb named by the first word; without one, list them."""
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print("usage: dira-scale VERB KEY=VALUE ...\n")
        print("\n".join(f"  {name:<10} {line}" for name, line in VERBS.items()))
        return 0
    verb = sys.argv[1]
    if verb not in VERBS:
        print(
            f"dira-scale: no verb '{verb}'{nearest(verb, VERBS) or '.'} There are: {', '.join(VERBS)}", file=sys.stderr
        )
        return 2
    return int(import_module(f"dira_scale.{verb}").main(sys.argv[2:]))


if __name__ == "__main__":
    raise SystemExit(main())
