"""Notes below a probe's tables: how to read its figures, one sentence each; what is left out, what may be chance."""

from typing import Any

import numpy as np
from omegaconf import DictConfig

from dira_scale.dataset.metrics.cases import CASES
from dira_scale.dataset.metrics.classification import AUROC
from dira_scale.dataset.metrics.regression import R2
from dira_scale.judge.pages.probe_figures import ProbeFigure
from dira_scale.probe.probing import ITERATIONS, PARTS

RANDOM = "Random encoders and raw pixels reach theirs without any pretraining: only figures above both show a benefit."
NOT_RANDOM = (
    "Embeddings of random weights (embed init=random) reach theirs without training: show them beside the others."
)
OF_FLAGS = "Figures are areas under the ROC curve in %, on the test part: 50 is chance."
OF_NUMBERS = "are R2 in %, on the test part: 0, or a little less, is what the mean of the training values reaches."
FEW = 100  # test images below which a figure says little: an AUC of .8 has a standard deviation of about .05 at 100


def map_notes(about: dict[str, Any], cfg: DictConfig) -> list[str]:
    """Return the notes on maps that are probed against masks. ``about``: the data, as ``probe.json`` has them."""
    images = ", ".join(f"{part} {count} images" for part, count in about["images"].items())
    return [
        f"{about['name']}: {images} with a mask; the {cfg.masks.k} nearest cells of maps vote, T = "
        f"{cfg.masks.temperature:g}.",
        f"Figures are the Dice of each class in %, the mean over test images; {CASES}/0.parquet … have a row's images.",
        "In brackets: labelled images. The sd is over draws of labelled patients.",
        NOT_RANDOM,
    ]


def label_notes(
    name: str, about: dict[str, Any], results: list[ProbeFigure], unfinished: int, cfg: DictConfig
) -> list[str]:
    """Return the notes on vectors that are probed against labels; ``name``: of the encoders."""
    images = ", ".join(f"{part} {about['images'][part]} images of {about['patients'][part]} patients" for part in PARTS)
    notes = [
        f"{about['name']}: {images}; {name} at {about['size']} pixels.",
        *([OF_FLAGS] if len(about["labels"]) > len(about["numbers"]) else []),
        *([f"Figures of {', '.join(about['numbers'])} {OF_NUMBERS}"] if about["numbers"] else []),
        "In brackets: labelled images. The sd is over encoders where n > 1, else over draws of labelled patients.",
        NOT_RANDOM if cfg.embeddings is not None else RANDOM,
    ]
    if (count := about["images"]["test"]) < FEW:
        notes.append(
            f"Only {count} test images: figures far apart, even 100.0, may be chance; compare on {FEW} or more."
        )
    if about["classes"]:
        notes.append(
            f"{', '.join(about['classes'])}: each class against all others, and the mean over classes; accuracy is "
            "the share of test images whose class gets the highest score, without images of classes left out; it "
            "needs two classes. An order of the classes is not used."
        )
    if cfg.pretext:
        notes.append(f"{cfg.pretext}: each image is seen in every class, and counts as often in the brackets.")
    if about["left_out"]:
        notes.append("Left out: " + "; ".join(f"{label} ({why})" for label, why in about["left_out"].items()) + ".")
    for metric, fits in ((AUROC, "fits"), (R2, "fits of numbers")):
        linear = [f for f in results if f.probe == "linear" and f.metric == metric]
        at = [c for f in linear for draws in f.chosen or [] for c in draws]
        edges = {edge: np.mean(np.isclose(at, edge)) for edge in (min(cfg.c), max(cfg.c))} if at else {}
        for edge, share in edges.items():
            if share > 0.5 and len(cfg.c) > 1:
                often = f"{100 * share:.0f} % of the {fits}"
                notes.append(f"C={edge:g}, at the edge of the grid `c`, was chosen in {often}: widen it.")
    if unfinished:
        notes.append(f"{unfinished} logistic regressions did not converge in {ITERATIONS} iterations.")
    return notes
