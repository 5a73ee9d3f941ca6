"""``python -m dira_scale.shard recipe=NAME out=FOLDER``: images into shards; ``shard VERB``: work with shards."""

import sys
from collections.abc import Callable

from omegaconf import DictConfig

from dira_scale.config.compose import run_verb
from dira_scale.curation import commands as curation
from dira_scale.errors import nearest
from dira_scale.ingest import commands as ingest
from dira_scale.ingest.commands import shard

VERBS: dict[str, Callable[[DictConfig], int]] = {
    "plan": ingest.plan,
    "repair": ingest.repair,
    "verify": curation.verify,
    "subset": curation.subset,
    "merge": curation.merge,
    "convert": curation.convert,
    "audit": curation.audit,
    "stats": curation.stats,
}
HELP = "also: python -m dira_scale.shard SUBCOMMAND KEY=VALUE ... (SUBCOMMAND --help lists its keys):"


def main(argv: list[str] | None = None) -> int:
    """The verb; the first word may be one of ``VERBS``."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in VERBS:
        return run_verb(f"shard_{words[0]}", VERBS[words[0]], words[1:])
    if words and words[0].isalpha():
        known = nearest(words[0], VERBS)
        print(f"shard: no subcommand '{words[0]}'{known or '.'} There are: {', '.join(VERBS)}", file=sys.stderr)
        return 2
    try:
        return run_verb("shard", shard, words)
    finally:  # --help ends by an exception
        if words in (["-h"], ["--help"]):
            lines = (f"  {name:<8} {(function.__doc__ or '').splitlines()[0]}" for name, function in VERBS.items())
            print("\n".join(["", HELP, *lines]))


if __name__ == "__main__":
    raise SystemExit(main())
