"""Whether batch, lanes and BatchNorm groups of every stage divide over the processes."""

from dira_scale.errors import UserError
from dira_scale.pretraining.config import Pretrain
from dira_scale.pretraining.schedule import batches_of


def check_division(config: Pretrain, ranks: int) -> None:
    """Raise ``UserError`` where batch, lanes or BatchNorm groups of a stage do not divide over so many processes."""
    for batch in sorted(set(batches_of(config).values())):
        if misfits := _misfits(config, batch, ranks):
            fit = ", ".join(map(str, fitting(config)))
            would = f"the processes can be {fit}" if fit else "no number of processes fits, change one of these keys"
            raise UserError(f"{'; '.join(misfits)}; {would}")


def fitting(config: Pretrain) -> list[int]:
    """The numbers of processes over which every stage divides."""
    batches = set(batches_of(config).values())
    return [n for n in range(1, min(batches) + 1) if not any(_misfits(config, batch, n) for batch in batches)]


def _misfits(config: Pretrain, batch: int, ranks: int) -> list[str]:
    accumulate, groups, lanes = config.parallel.accumulate, config.model.bn_groups, config.data.lanes or batch
    parts = ranks * accumulate
    over = f"{ranks} ranks x parallel.accumulate={accumulate}"
    found = []
    if batch % parts:
        found.append(f"data.batch={batch} is not divided by {over}")
    if lanes % ranks:
        found.append(f"{ranks} ranks do not divide data.lanes={lanes}")
    if groups > 0 and groups % parts and not (accumulate == 1 and ranks % groups == 0):
        found.append(f"model.bn_groups={groups} BatchNorm groups do not divide over {over}")
    return found
