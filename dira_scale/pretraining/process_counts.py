"""Whether batch, lanes and BatchNorm groups of every stage can be divided among the processes."""

from dira_scale.errors import UserError
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import batches_of


def check_division(config: Pretrain, ranks: int) -> None:
    """Raise ``UserError`` if batch, lanes or BatchNorm groups of a stage do not divide among ``ranks`` processes."""
    for batch in sorted(set(batches_of(config).values())):
        if problems := _problems(config, batch, ranks):
            counts = ", ".join(map(str, process_counts(config)))
            advice = (
                f"numbers of processes that fit: {counts}"
                if counts
                else "no number of processes fits, change one of these keys"
            )
            raise UserError(f"{'; '.join(problems)}; {advice}")


def process_counts(config: Pretrain) -> list[int]:
    """The numbers of processes among which every stage can be divided."""
    batches = set(batches_of(config).values())
    return [n for n in range(1, min(batches) + 1) if not any(_problems(config, batch, n) for batch in batches)]


def _problems(config: Pretrain, batch: int, ranks: int) -> list[str]:
    accumulate, groups, lanes = config.parallel.accumulate, config.model.bn_groups, config.data.lanes or batch
    parts = ranks * accumulate
    over = f"{ranks} ranks x parallel.accumulate={accumulate}"
    problems = []
    if batch % parts:
        problems.append(f"data.batch={batch} is not divisible by {over}")
    if lanes % ranks:
        problems.append(f"data.lanes={lanes} is not divisible by {ranks} ranks")
    if groups > 0 and groups % parts and not (accumulate == 1 and ranks % groups == 0):
        problems.append(f"model.bn_groups={groups} BatchNorm groups cannot be divided among {over}")
    return problems
