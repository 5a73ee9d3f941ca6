"""Warnings about a run, from its metrics: each is given once when the problem begins, not at every row."""

import math
from collections.abc import Mapping
from typing import Any

from dira_scale.pretrain.config import Pretrain
from dira_scale.train.engine.task import StagePosition
from dira_scale.train.runs.remarks import ABOVE_CHANCE, COLLAPSED_RANK, COLLAPSED_STD, ENOUGH_STEPS, SETTLED

# A teacher's softmax over prototypes has the entropy of a uniform one (1, as a share of ln K), or all images have one
# prototype (0 of the others): both ways in which DINO collapses (Caron et al., ICCV 2021, sec. 5.3). A network whose
# LayerScale starts near 0 hardly tells images apart at first, so the beginning is not judged.
UNIFORM, ONE_PROTOTYPE = 0.999, 0.02
LATE = 0.25  # of a stage, if it is also ENOUGH_STEPS
# Wrong on only one patch in a hundred, and the generator's loss where D(restored) is below about a tenth: the generator
# hardly fools it any more. (Least squares: (0.1 - 1)^2; minimax: log(1 - 0.1).) A Wasserstein critic is to win.
DISCRIMINATOR_WINS, GENERATOR_LOSES = 0.99, {"lsgan": 0.8, "minimax": -0.1}
# Restoration reaches the deepest features only through the decoder's first block, the others through the skips: its
# gradient is 40 to 90 times smaller than InfoNCE's and 400 to 1,400 times smaller than scaled Barlow Twins' where both
# are learnt, and 24,000 to 65,000 times smaller than unscaled Barlow Twins' (docs/evidence/learning.md). A term with a
# weight below a hundredth (the adversary's 0.001) is meant to be small.
DWARFED, NEGLIGIBLE = 5000.0, 0.01
# Below this, most negatives are from an encoder that has since changed: no longer a consistent dictionary. (The
# released code's last stage, with a batch of 16 and a queue of 65,536, keeps 0.24.) In a stage's first half the queue
# may still be filling, and a run of a few steps is a trial.
FRESH, FILLED = 0.2, 0.5
# A trainer that waits for more than a tenth of its time is limited by its loader: reported after half a minute.
STARVED, WAITED = 0.1, 30.0
FASTER = {
    "read": "stage the shards on a local disk with data.cache=FOLDER, or raise data.prefetch",
    "decode": "raise data.workers if cores are idle; else store images that decode faster: shard again with "
    "recipe.codec=jpg recipe.max_side=512",
    "transform": "raise data.workers if cores are idle; else store smaller images: shard again with "
    "recipe.max_side=512",
    "copy": "raise data.prefetch",
}
DECAYED = 0.05  # of the share of patches that are found again: what is lost while whole images are told apart better
PATIENCE = 2  # measurements in a row: one may be an outlier
ROWS = 10  # top-1 values in a row: one may be of a single batch


class Diagnosis:
    """Turns rows of metrics into warnings; remembers which have been given.

    Args:
        config: for the weights, the adversary's loss and the names of the keys to change.
        continues: whether the run goes on from weights, whose features may decay.
    """

    def __init__(self, config: Pretrain, continues: bool = False) -> None:
        self.adversary = config.adversary.loss
        self.weights: Mapping[str, float] = config.method.get("weights", {})
        self.base = "method.base" if "base" in config.method else "method"
        node = config.method.get("base", config.method)
        self.scaled, self.anchored = "scale" in node, "anchor" in node
        self.held = {name for name, stage in config.stages.items() if "gram" in stage.terms}  # by the anchor
        self._waited = 0.0  # seconds of waiting for the loader in rows that all waited too long
        self.continues = continues
        self._held_out: list[tuple[float, float]] = []  # by validation: patches found again, the figure of whole images
        self._counts: dict[str, int] = {}  # measurements in a row that show a problem, by check

    def held_out(self, row: Mapping[str, float]) -> None:
        """Note a validation's figures."""
        known = row.get("health/knn_auc", row.get("top1"))
        if known is not None and "patch_top1" in row:
            self._held_out.append((row["patch_top1"], known))

    def warnings(self, row: Mapping[str, Any], position: StagePosition) -> list[str]:
        """Warnings about problems that begin with this training row. Checks whose keys the row lacks are skipped."""
        gradients = [f"health/gradient/{term}" for term, weight in self.weights.items() if weight >= NEGLIGIBLE]
        checks = (
            (self._collapse, ("health/std", "health/rank"), PATIENCE),
            (self._teacher, ("teacher_entropy", "prototypes"), PATIENCE),
            (self._chance, ("accuracy" if "accuracy" in row else "top1", "chance"), ROWS),
            (self._discriminator, ("health/discriminator", "loss/ad"), PATIENCE),
            (self._dwarfed, tuple(key for key in gradients if key in row) or gradients, PATIENCE),
            (self._queue, ("queue_fresh",), PATIENCE),
            (self._starved, ("time/data", "time/step"), 1),
            (self._dense, (), 1),
        )
        warnings = []
        for check, keys, patience in checks:
            if all(key in row for key in keys):
                text, kind = check(row, position), check.__name__
                self._counts[kind] = self._counts.get(kind, 0) + 1 if text else 0
                if self._counts[kind] == patience:
                    warnings.append(text)
        return warnings

    def _collapse(self, row: Mapping[str, Any], position: StagePosition) -> str:
        std, rank = row["health/std"], row["health/rank"]
        if position.fraction < SETTLED or (std > COLLAPSED_STD and rank > COLLAPSED_RANK):
            return ""
        return (
            f"collapse: the embeddings of all images are nearly equal, or on one line (std {std:.3f}, where 1 is "
            f"spread; effective rank {rank:.1f}): lower optim.optimizer.lr; in your own method check the stop-gradient"
        )

    def _teacher(self, row: Mapping[str, Any], position: StagePosition) -> str:
        entropy, used = row["teacher_entropy"], row["prototypes"]
        early = position.fraction < LATE or position.done < ENOUGH_STEPS
        if early or (entropy < UNIFORM and used > ONE_PROTOTYPE):
            return ""
        alike = f"set {self.base}.batch_norm=true, lower {self.base}.teacher_temperature, or take larger crops"
        advice = alike if entropy >= UNIFORM else "lower optim.optimizer.lr"
        return (
            f"collapse: the teacher gives all images nearly the same prototypes (entropy {entropy:.3f}, where 1 is "
            f"uniform; beside one, {used:.1%} of the others are used): {advice}"
        )

    def _chance(self, row: Mapping[str, Any], position: StagePosition) -> str:
        name, right = ("accuracy", row["accuracy"]) if "accuracy" in row else ("top-1", row["top1"])
        chance = row["chance"]
        early = position.fraction < LATE or position.done < ENOUGH_STEPS
        if early or chance > 1 / 2 / ABOVE_CHANCE or right > ABOVE_CHANCE * chance:
            return ""
        return (
            f"{name} {right:.3f} is still at chance ({chance:.3f}) after {position.fraction:.0%} of stage "
            f"{position.stage}: try another optim.optimizer.lr"
            + f", or a shorter {self.base}.queue"
            * ("queue_fresh" in row)
        )

    def _discriminator(self, row: Mapping[str, Any], position: StagePosition) -> str:
        accuracy, loss = row["health/discriminator"], row["loss/ad"]
        if accuracy < DISCRIMINATOR_WINS or loss < GENERATOR_LOSES.get(self.adversary, math.inf):
            return ""
        return (
            f"the discriminator wins: it is right on {accuracy:.1%} of the patches, and L_ad stays at {loss:.2f}: "
            "lower optim.discriminator.lr, or raise method.weights.ad"
        )

    def _dwarfed(self, row: Mapping[str, Any], position: StagePosition) -> str:
        norms = {
            term: row[f"health/gradient/{term}"]
            for term, weight in self.weights.items()
            if weight >= NEGLIGIBLE and f"health/gradient/{term}" in row
        }
        if not norms:
            return ""
        large, small = max(norms, key=lambda term: norms[term]), min(norms, key=lambda term: norms[term])
        if norms[large] <= DWARFED * norms[small]:
            return ""
        ratio = f"{norms[large] / norms[small]:.0f} times L_{small}'s" if norms[small] else f"and L_{small}'s is 0"
        scale = f" or {self.base}.scale" if large == "di" and self.scaled else ""
        return (
            f"L_{large} dwarfs L_{small}: its gradient at the encoder's output is {ratio}: lower "
            f"method.weights.{large}{scale}; or raise method.weights.{small}"
        )

    def _queue(self, row: Mapping[str, Any], position: StagePosition) -> str:
        fresh = row["queue_fresh"]
        if position.fraction < FILLED or position.done < ENOUGH_STEPS or fresh >= FRESH:
            return ""
        return (
            f"only {fresh:.0%} of the queue is younger than the key encoder's drift: "
            f"shorten {self.base}.queue, or raise {self.base}.momentum"
        )

    def _dense(self, row: Mapping[str, Any], position: StagePosition) -> str:
        if not (self.continues and self._held_out):
            return ""
        (most, before), (patches, known) = max(self._held_out), self._held_out[-1]
        if most - patches < DECAYED or known <= before:
            return ""
        held = position.stage in self.held
        anchor = f"raise {self.base}.weights.gram" if held else "add the term gram (method.anchor)"
        return (
            f"dense features decay: of held-out patches {patches:.0%} are found again, {most:.0%} were, while whole "
            f"images are told apart better ({before:.3f}, now {known:.3f}): {f'{anchor}, ' * self.anchored}lower "
            "optim.optimizer.lr, or raise frozen_blocks"
        )

    def _starved(self, row: Mapping[str, Any], position: StagePosition) -> str:
        waited = row["time/data"]
        share = waited / max(1e-9, waited + row["time/step"])
        self._waited = self._waited + waited if share > STARVED else 0.0
        if self._waited < WAITED:
            return ""
        seconds = {part: row.get(f"loader/{part}", 0.0) for part in FASTER}
        slowest = max(seconds, key=lambda part: seconds[part])
        times = ", ".join(f"{part} {value:.1f} s" for part, value in seconds.items())
        return (
            f"training waits for its loader {share:.0%} of the time; the loader's threads mostly {slowest} ({times}): "
            f"{FASTER[slowest]}"
        )
