"""The tables of docs/reference/experiments.md, from what configs/ composes: ``python tests/experiments_page.py`` writes
them into the page, and ``test_docs.py`` compares."""

import functools
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dira_scale.base.config.compose import compose
from dira_scale.base.config.parts import PARTS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reference" / "experiments.md"
EXPERIMENTS = ROOT / "configs" / "experiment"
PRESETS = ROOT / "configs" / "pretrain" / "preset"
DIFFERS = ("dira_moco", "pcrl", "pcrl3d", "dira_transvw", "models_genesis")  # whose presets have a table
SIDES = ("paper", "released")
NAMES = {"TimmUNet": "", "UNet3D": "`unet3d`", "ResEnc": "`resenc_l`", "SwinUNETR": "`swinunetr`", "ViT3D": "`vit3d`"}
COLUMNS = {
    "full": ("network", "view", "batch", "optimizer, rate, decay", "schedule", "epochs"),
    "small": ("network", "view", "optimizer, rate, decay", "epochs"),
}
ABSENT = object()


def tables() -> dict[str, str]:
    """Each table of the page by its name."""
    small = {path.stem: path.stem.startswith(("small", "phantom")) for path in sorted(EXPERIMENTS.glob("*.yaml"))}
    result = {
        name: table(
            ("`experiment=`", *columns), together((each for each in small if small[each] == (name == "small")), columns)
        )
        for name, columns in COLUMNS.items()
    }
    for experiment in DIFFERS:
        sides = [side for side in SIDES if experiment in OmegaConf.load(PRESETS / f"{side}.yaml")[PARTS]]
        columns = [f"`preset={side}`" for side in sides]
        result[f"presets of {experiment}"] = table(("key", "default", *columns), differences(experiment, sides))
    return result


@functools.cache
def composed(experiment: str, *words: str) -> dict[str, Any]:
    config = compose("pretrain", [f"experiment={experiment}", "data.shards=any", *words])
    return dict(OmegaConf.to_container(config))  # type: ignore[arg-type]


def together(experiments: Iterable[str], columns: Iterable[str]) -> list[list[str]]:
    """A row for all experiments of which it says the same."""
    names: dict[tuple[str, ...], list[str]] = {}
    for experiment in experiments:
        cells = settings(experiment)
        names.setdefault(tuple(cells[column] for column in columns), []).append(f"`{experiment}`")
    return [[", ".join(each), *cells] for cells, each in names.items()]


def settings(experiment: str) -> dict[str, str]:
    """By column."""
    config = composed(experiment)
    model, optim, data = (config[key] for key in ("model", "optim", "data"))
    return {
        "network": network(model),
        "view": str(data["size"]).replace(" ", ""),
        "batch": str(data["batch"]),
        "optimizer, rate, decay": optimizer(optim),
        "schedule": schedule(optim),
        "epochs": lengths([(name, stage) for name, stage in config["stages"].items() if stage["epochs"]]),
    }


def network(model: dict[str, Any]) -> str:
    """Its name, and its width where it is not the full one."""
    name = NAMES[model["_target_"]] or f"`{model['encoder']}`"
    smaller = [f"{key}={shown(model[key])}" for key in ("width", "embed_dim") if model.get(key, 1) != 1]
    return ", ".join([name, *smaller])


def optimizer(optim: dict[str, Any]) -> str:
    settings = optim["optimizer"]
    rate = shown(settings["lr"]) + (f"·B/{optim['reference_batch']}" if optim["reference_batch"] else "")
    return f"{settings['_target_'].rpartition('.')[2]} {rate}, {shown(settings['weight_decay'])}"


def schedule(optim: dict[str, Any]) -> str:
    """With what it starts, and by what it falls."""
    warm = f"warm-up {shown(optim['warmup_epochs'])}, " if optim["warmup_epochs"] else ""
    when = "after" if isinstance(optim["step_epochs"], list) else "every"
    falls = f" {when} {shown(optim['step_epochs'])}" if optim["schedule"] == "step" else ""
    return f"{warm}`{optim['schedule']}`{falls}"


def lengths(stages: list[tuple[str, dict[str, Any]]]) -> str:
    return ", ".join(f"{name} {shown(stage['epochs'])}" for name, stage in stages)


def differences(experiment: str, sides: Iterable[str]) -> Iterator[list[str]]:
    """A row for each key in which a preset differs from the experiment."""
    plain = dict(leaves(composed(experiment)))
    chosen = [dict(leaves(composed(experiment, f"preset={side}"))) for side in sides]
    for key in sorted({key for each in (plain, *chosen) for key in each} - {"preset"}):
        values = [each.get(key, ABSENT) for each in (plain, *chosen)]
        if any(value != values[0] for value in values):
            first, *others = ("none" if value is ABSENT else f"`{shown(value)}`" for value in values)
            yield [f"`{key}`", first, *("" if value == first else value for value in others)]


def leaves(config: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values; a list is a value."""
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def shown(value: Any) -> str:
    """As it is typed."""
    if isinstance(value, list):
        return f"[{', '.join(map(shown, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = [*head]
    lines = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n{lines.replace('|  |', '| |').replace('|  |', '| |')}"


def filled(page: str) -> str:
    """The page with each table after its mark replaced by what is composed now."""
    for name, text in tables().items():
        mark = f"<!-- generated: {name} -->\n"
        if page.count(mark) != 1:
            raise ValueError(f"{PAGE.name}: expected {mark.strip()} once")
        before, _, after = page.partition(mark)
        page = before + mark + text + re.sub(r"\A(?:\|.*\n)*", "", after)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
    sys.stdout.write(f"{PAGE}\n")
