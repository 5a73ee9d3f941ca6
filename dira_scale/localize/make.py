"""What ``python -m dira_scale.localize`` does: Grad-CAM of every image with boxes, for each label of its boxes.

::

    results.json        the accuracy of each label and their mean, at each threshold. Written last
    boxes.parquet       a row for each box of the dataset: the predicted box that overlaps it most
    pictures/           the first images of each label: map, boxes of both kinds
    config.yaml         the resolved configuration
    environment.json    versions, commit, machine
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dira_scale import __version__
from dira_scale.data.batch import UNITS
from dira_scale.data.manifest import ShardedDataset
from dira_scale.distributed.processes import default_workers
from dira_scale.errors import UserError, print_line
from dira_scale.evaluation.journal import FILE as UNFINISHED
from dira_scale.evaluation.journal import Journal, is_complete, journal, rows_are_kept
from dira_scale.evaluation.leak import Part, check_leak, sources_of
from dira_scale.evaluation.probe_figures import rich_table
from dira_scale.evaluation.stored import Stored, read_ahead
from dira_scale.evaluation.trained import TrainedRun
from dira_scale.localize.cases import Case, Cases, cases_of, not_of_labels
from dira_scale.localize.config import Localize
from dira_scale.localize.look import Localizer, LocatedLabel
from dira_scale.localize.results import BOXES, CONFIG, FILE, INTERVAL, Row, cells, figures, write_boxes
from dira_scale.machine.console import Console
from dira_scale.machine.progress import bar
from dira_scale.runs.environment import environment
from dira_scale.storage.atomic import write_atomic, write_json
from dira_scale.storage.owned import own

FOLDER = "pictures"
KIND = "localizations"  # of the folder
HEIGHT, GAP, LINE, TEXT = 384, 6, 2, 13  # pixels
TRUE, PREDICTED = (90, 220, 90), {"yellow": (255, 210, 60), "blue": (80, 170, 255)}  # of the intensities in turn
OPAQUE = 0.45  # the map, where it is 255
WIDTH = 120  # columns where the output is not a terminal


def draw(view: Tensor, seen: LocatedLabel, rows: Sequence[Row]) -> bytes:
    """A PNG of ``view`` [C, *size] in [0, 1]; of a volume the slice in the middle of the first box.

    ``rows``: of the same image and label.
    """
    n = seen.map.ndim
    colour = n == 2 and len(view) == 3
    image, map = (view.movedim(0, -1) if colour else view.mean(0)).numpy(), seen.map
    true = [_in_view(np.array(row.box), seen) for row in rows]
    predicted = {intensity: [_in_view(box, seen) for box in boxes] for intensity, boxes in seen.predicted.items()}
    if n == 3:
        middle = int(np.clip(true[0][0] + true[0][3] / 2, 0, len(image) - 1))
        image, map = image[middle], map[middle]
        true = [box for box in true if _crosses(box, middle)]
        predicted = {key: [box for box in boxes if _crosses(box, middle)] for key, boxes in predicted.items()}
    height, width = seen.crop[n:][-2:]  # the stored image's proportions: its view may be square
    size = round(HEIGHT * width / height), HEIGHT
    scale = np.array([HEIGHT / image.shape[0], size[0] / image.shape[1]])
    left = _resized(image, size)
    right = _resized(_over(image, map), size)
    _outline(left, true, scale, TRUE)
    _outline(right, true, scale, TRUE)
    colours = [*PREDICTED.values()]
    for number, boxes in enumerate(predicted.values()):
        _outline(right, boxes, scale, colours[number % len(colours)])
    sheet = Image.new("RGB", (2 * size[0] + GAP, HEIGHT + 3 * TEXT), "white")
    sheet.paste(left, (0, 3 * TEXT))
    sheet.paste(right, (size[0] + GAP, 3 * TEXT))
    names = [*PREDICTED] * len(predicted)
    levels = ", ".join(f"{name} above {intensity:g}" for name, intensity in zip(names, predicted, strict=False))
    text = f"{rows[0].label}: probability {rows[0].probability:.2f}, IoU {max(row.iou for row in rows):.2f}"
    key = f"green: box; regions {levels}" if rows[0].regions else "green: box; no region"
    ImageDraw.Draw(sheet).multiline_text((4, 3), f"{text}\n{key}", "black", ImageFont.load_default(TEXT))
    encoded = BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def _in_view(box: np.ndarray, seen: LocatedLabel) -> np.ndarray:
    """From the stored image's pixels to the view's: the inverse of ``look.in_stored``."""
    n = seen.map.ndim
    scale = np.array(seen.map.shape) / seen.crop[n:]
    return np.concatenate(((box[:n] - seen.crop[:n]) * scale, box[n:] * scale))


def _crosses(box: np.ndarray, depth: int) -> bool:
    return bool(box[0] < depth + 1 and box[0] + box[3] > depth)


def _over(image: np.ndarray, map: np.ndarray) -> np.ndarray:
    """The image, [H, W] or [H, W, 3], coloured by the map: [H, W, 3] in [0, 1]."""
    from matplotlib import colormaps  # lazy: takes a third of a second

    share = (OPAQUE * map / 255)[..., None]
    image = image[..., None] if image.ndim == 2 else image
    return (1 - share) * image + share * colormaps["turbo"](map / 255)[..., :3]


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    values = (picture.clip(0, 1) * 255).round().astype(np.uint8)
    return Image.fromarray(values).convert("RGB").resize(size, Image.Resampling.BILINEAR)


def _outline(picture: Image.Image, boxes: Sequence[np.ndarray], scale: np.ndarray, colour: tuple[int, ...]) -> None:
    pen = ImageDraw.Draw(picture)
    for box in boxes:
        y, x, h, w = np.concatenate((box[: len(box) // 2][-2:] * scale, box[len(box) // 2 :][-2:] * scale)).tolist()
        pen.rectangle((x, y, x + w - 1, y + h - 1), outline=colour, width=LINE)


def make(cfg: DictConfig) -> None:
    """Look at what is not yet looked at. Raises UserError."""
    config: Any = OmegaConf.to_object(cfg)
    assert isinstance(config, Localize)
    out = Path(config.out)
    trained = TrainedRun.of(Path(config.run))
    if not trained.supervision.output.of_classes or not trained.supervision.pooled:
        raise UserError(not_of_labels(config.run, f"fine-tuned on {trained.supervision.learned}"))
    dataset = ShardedDataset.open(config.data.shards)
    dataset.require(len(trained.size), "this network")
    trained.require_channels(dataset, [config.data.split] if config.data.split in dataset.splits else [])
    cases = cases_of(dataset, config.data.split, trained.supervision.outputs, config.labels)
    about = {name: trained.about[name] for name in ("network", "stage", "step")} | {"weights": trained.hash}
    about |= {"data": {"dataset": dataset.info.name, "hash": dataset.hash, "split": config.data.split}}
    about |= {"labels": [*cases.labels], "intensities": config.intensities, "thresholds": config.thresholds}
    about |= {"pictures": config.pictures}
    if is_complete(out, KIND, FILE, about):
        print_line(f"{out} is complete: nothing is left to do")
        return
    judged = Part(dataset, config.data.split, frozenset(case.patient for case in cases.images))
    leak = check_leak([judged], config.data.split, [*sources_of(config.run, "run", [dataset])])
    localizer = Localizer(trained, dataset, config.data.split, config.intensities)
    with rows_are_kept(out):
        own(out, KIND, "out")
        (out / FOLDER).mkdir(exist_ok=True)
        with journal(out, about) as rows:
            write_atomic(out / CONFIG, yaml.safe_dump(asdict(config), sort_keys=False))
            write_json(out / "environment.json", environment())
            _look(config, localizer, cases, rows)
            _finish(config, cases, rows, about | {"leak": asdict(leak)})


def _look(config: Localize, localizer: Localizer, cases: Cases, rows: Journal) -> None:
    """One image after another, so that those of a second call are as they would have been in the first."""
    todo, drawn = [case for case in cases.images if case.key not in rows.done], _drawn(cases, config.pictures)

    def read(case: Case) -> tuple[Case, Stored, Tensor]:
        return case, *localizer.view(case)

    with bar("localizing", UNITS[len(localizer.trained.size)]) as shown:
        task = shown.add_task("", total=len(cases.images), completed=len(cases.images) - len(todo))
        for case, stored, view in read_ahead(read, todo, config.data.workers or default_workers(localizer.device)):
            made: list[Row] = []
            for label, boxes in case.boxes.items():
                seen = localizer.look(stored, view, label)
                of_label = [seen.row(case, label, box) for box in boxes]
                made += of_label
                if (case.key, label) in drawn:
                    path = Path(config.out) / FOLDER / f"{re.sub(r'[^A-Za-z0-9]+', '_', label)}-{case.key}.png"
                    write_atomic(path, draw(view, seen, of_label))
            rows.add(case.key, {"boxes": [asdict(row) for row in made]})
            shown.advance(task)


def _drawn(cases: Cases, count: int) -> set[tuple[str, str]]:
    """Keys and labels of the first images of each label: chosen before anything is known of how they come out."""
    return {
        (case.key, label)
        for label in cases.labels
        for case in [case for case in cases.images if label in case.boxes][:count]
    }


def _finish(config: Localize, cases: Cases, done: Journal, about: Mapping[str, Any]) -> None:
    """Write the rows and the figures, and show these."""
    out = Path(config.out)
    rows = [Row(**values) for case in cases.images for values in done.done[case.key]["boxes"]]
    rows.sort(key=lambda row: cases.labels.index(row.label))
    write_boxes(out / BOXES, rows)
    of_test = figures(rows, config.thresholds)
    counts = {"images": len(cases.images), "boxes": len(rows), "patients": len({row.patient for row in rows})}
    counts |= {"without_region": sum(row.regions == 0 for row in rows)}
    written = {"dira_scale": __version__, **about, **counts, "left_out": dict(cases.left_out)}
    facts = {"interval": INTERVAL, "splits": {"test": config.data.split}}
    write_json(out / FILE, written | facts | {"figures": {"test": [figure.as_json() for figure in of_test]}})
    (out / UNFINISHED).unlink()
    console = Console() if Console().is_terminal else Console(width=WIDTH)
    console.print(rich_table("accuracy in per cent, by the intersection over union", cells(of_test)))
    lines = [*about["leak"]["lines"]]
    if cases.left_out:
        listed = ", ".join(f"{name} ({count})" for name, count in cases.left_out.items())
        lines.append(f"left out: boxes of labels that were not asked for or not learned: {listed}")
    if empty := counts["without_region"]:
        lines.append(f"{empty} of {len(rows)} boxes: no region, as nothing in the image speaks for the label")
    for line in [*lines, f"{FILE}, {BOXES} and {FOLDER}/ in {out}"]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
