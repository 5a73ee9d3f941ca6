"""What is wrong with a run, in words, from the rows of its metrics: said once when it begins, not at every row."""

from collections.abc import Mapping
from typing import Any

from dira_scale.engine.task import Stretch
from dira_scale.pretraining.config import Pretrain

# Spread directions have a std ratio of 1 and an effective rank of tens. The small recipes fell to 0.15 and 4 at worst,
# in their first hundreds of steps. Collapse ends near 0 (one embedding for all) or, where a last BatchNorm forbids
# that, near rank 1 (a line): SimSiam at too high a rate kept 0.5, and a rank from 2.5 down to 1.9.
COLLAPSED_STD, COLLAPSED_RANK = 0.1, 2.5
# Networks see all radiographs as nearly one before they have learnt anything; a stage's first tenth is not judged.
SETTLED = 0.1
# Bases that learn leave chance within the first epochs, if these are many steps: `small` was at chance throughout 190
# steps on 273 phantoms. A quarter of a stage is late if it is also 500 steps; twice chance is outside of noise.
LATE, ENOUGH, ABOVE_CHANCE = 0.25, 500, 2.0
# Right of all but one patch in a hundred, and the generator's loss where D(restored) is below about a tenth: it hardly
# fools it any more. (Least squares: (0.1 - 1)^2; minimax: log(1 - 0.1).)
DISCRIMINATOR_WINS, GENERATOR_LOSES = 0.99, {"lsgan": 0.8, "minimax": -0.1}
# Restoration reaches the deepest features through the decoder's first block alone, the others through the skips: it
# pulls 40 to 90 times less than InfoNCE and 400 to 1,400 times less than scaled Barlow Twins where both are learnt, and
# 24,000 to 65,000 times less than unscaled Barlow Twins (docs/health.md). A term of a weight below a hundredth (the
# adversary's 0.001) is meant to be small.
DWARFED, NEGLIGIBLE = 5000.0, 0.01
# Most of the negatives from an encoder that has moved on: they are no longer one dictionary. (The released code's last
# stage, with a batch of 16 and a queue of 65,536, keeps 0.24.) In a stage's first half the queue may still be filling.
FRESH, FILLED = 0.2, 0.5
PATIENCE = 2  # looks in a row: one may be an outlier
ROWS = 10  # in a row of the top-1: it may be of a single batch


class Diagnosis:
    """Remembers what has been said.

    Args:
        config: for the weights, the adversary's loss and the names of the keys to change.
    """

    def __init__(self, config: Pretrain) -> None:
        self.adversary = config.adversary.loss
        self.weights: Mapping[str, float] = config.method.get("weights", {})
        self.base = "method.base" if "base" in config.method else "method"
        self._looks: dict[str, int] = {}  # in a row, by kind

    def warnings(self, row: Mapping[str, Any], where: Stretch) -> list[str]:
        """What begins with this row of training. A row without a kind's figures leaves that kind as it was."""
        pulls = [f"health/gradient/{term}" for term, weight in self.weights.items() if weight >= NEGLIGIBLE]
        judges = (
            (self._collapse, ("health/std", "health/rank"), PATIENCE),
            (self._chance, ("top1", "chance"), ROWS),
            (self._discriminator, ("health/discriminator", "loss/ad"), PATIENCE),
            (self._dwarfed, tuple(key for key in pulls if key in row) or pulls, PATIENCE),
            (self._queue, ("queue_fresh",), PATIENCE),
        )
        said = []
        for judge, keys, patience in judges:
            if all(key in row for key in keys):
                text, kind = judge(row, where), judge.__name__
                self._looks[kind] = self._looks.get(kind, 0) + 1 if text else 0
                if self._looks[kind] == patience:
                    said.append(text)
        return said

    def _collapse(self, row: Mapping[str, Any], where: Stretch) -> str:
        std, rank = row["health/std"], row["health/rank"]
        if where.share < SETTLED or (std > COLLAPSED_STD and rank > COLLAPSED_RANK):
            return ""
        return (
            f"collapse: all images' embeddings are nearly one, or on one line (std {std:.3f}, where 1 is spread; "
            f"effective rank {rank:.1f}): lower optim.optimizer.lr; in a method of your own look at its stop-gradient"
        )

    def _chance(self, row: Mapping[str, Any], where: Stretch) -> str:
        top1, chance = row["top1"], row["chance"]
        if where.share < LATE or where.done < ENOUGH or chance > 1 / 2 / ABOVE_CHANCE or top1 > ABOVE_CHANCE * chance:
            return ""
        return (
            f"top-1 {top1:.3f} is still at chance ({chance:.3f}) after {where.share:.0%} of stage {where.stage}: "
            "try another optim.optimizer.lr" + f", or a shorter {self.base}.queue" * ("queue_fresh" in row)
        )

    def _discriminator(self, row: Mapping[str, Any], where: Stretch) -> str:
        accuracy, loss = row["health/discriminator"], row["loss/ad"]
        if accuracy < DISCRIMINATOR_WINS or loss < GENERATOR_LOSES[self.adversary]:
            return ""
        return (
            f"the discriminator wins: it is right of {accuracy:.1%} of the patches, and L_ad stays at {loss:.2f}: "
            "lower optim.discriminator.lr, or raise method.weights.ad"
        )

    def _dwarfed(self, row: Mapping[str, Any], where: Stretch) -> str:
        pulls = {
            term: row[f"health/gradient/{term}"]
            for term, weight in self.weights.items()
            if weight >= NEGLIGIBLE and f"health/gradient/{term}" in row
        }
        if not pulls:
            return ""
        large, small = max(pulls, key=lambda term: pulls[term]), min(pulls, key=lambda term: pulls[term])
        if pulls[large] <= DWARFED * pulls[small]:
            return ""
        times = f"{pulls[large] / pulls[small]:.0f} times" if pulls[small] else "and alone,"
        scale = f" or, of Barlow Twins, {self.base}.scale" if large == "di" else ""
        return (
            f"L_{large} dwarfs L_{small}: at the encoder's output it pulls {times} as hard: lower "
            f"method.weights.{large}{scale}; or raise method.weights.{small}"
        )

    def _queue(self, row: Mapping[str, Any], where: Stretch) -> str:
        fresh = row["queue_fresh"]
        if where.share < FILLED or fresh >= FRESH:
            return ""
        return (
            f"only {fresh:.0%} of the queue is younger than the key encoder's drift: "
            f"shorten {self.base}.queue, or raise {self.base}.momentum"
        )
