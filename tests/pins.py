"""What a rebuilding of the package must not change: keys and API; bit for bit, datasets, runs, names, orders and views.

    python tests/pins.py FILE.json          records it there, or, where FILE.json exists, compares with it

Run by hand, not by pytest, before and after a change that is to change nothing; six minutes on two cores. Both times on
one machine with the same packages: rounding is theirs, and so the file begins with what they are. Datasets and runs are
made by the commands, as users make them, of small inputs and in a folder that is removed. Comparing prints every value
that is another, is new or is gone, and exits with 1 if there is one. Values are the starts of SHA-256, or numbers with
all their digits. Left out are times and rates, and what says where and when something was made.
"""

import argparse
import hashlib
import inspect
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from drawn import draw
from harness import job
from omegaconf import OmegaConf

import dira_scale.api
from dira_scale.archive.phantom.ct import dataset as scans
from dira_scale.archive.phantom.cxr import dataset as radiographs
from dira_scale.base.config.compose import compose, defaults
from dira_scale.base.config.files import folder
from dira_scale.base.config.keys import leaves
from dira_scale.base.errors import UserError
from dira_scale.train.data import views
from dira_scale.train.data.order import ORDER_VERSION, Order
from dira_scale.train.runs import checkpoint
from dira_scale.train.runs.environment import PACKAGES, environment
from dira_scale.train.runs.identity import execution, run_name

EXECUTION = execution("pretrain")
ROOT = Path(__file__).resolve().parents[1]
SECONDS = 600  # bound on one command

# Datasets: the sharding command's words.
STUDIES = "recipe.columns={file: file, patient: patient, study: study, split: null, mask: mask}"
SPLITS = "recipe.columns={file: file, patient: patient, study: null, split: split, mask: mask}"
DATASETS = {
    "phantom_cxr": ["recipe=phantom_cxr", "recipe.patients=48", "recipe.size=128", "recipe.shard_size=20",
                    "recipe.splits={train: 0.65, val: 0.2, test: 0.15}"],
    "phantom_scans": ["recipe=phantom_ct", "recipe.patients=14", "recipe.size=64",
                      "recipe.splits={train: 0.6, val: 0.2, test: 0.2}"],
    "phantom_ct": ["recipe=phantom_ct", "recipe.patients=2", "recipe.size=32", "recipe.shard_size=2"],
    "folder": ["recipe=folder", "recipe.images=inputs/drawn/images", "recipe.labels=inputs/drawn/labels.csv",
               "recipe.boxes=inputs/drawn/boxes.csv", SPLITS, "recipe.label_columns=[nodule,mass]",
               "recipe.attributes=[sex,view]", "recipe.shard_size=7", "recipe.modality=CXR"],
    "dicom": ["recipe=folder", "recipe.images=inputs/dicom/dicom", "recipe.labels=inputs/dicom/labels.csv",
              "recipe.boxes=inputs/dicom/boxes.csv", STUDIES, "recipe.attributes=[sex,age,view]", "recipe.codec=jp2",
              "recipe.bits=16", "recipe.max_side=96", "recipe.modality=CXR"],
    "volumes": ["recipe=volumes", "recipe.images=inputs/drawn/volumes", "recipe.labels=inputs/drawn/volumes.csv",
                "recipe.boxes=inputs/drawn/blocks.csv", SPLITS, "recipe.label_columns=[nodule]",
                "recipe.modality=CT"],
    "metaimage": ["recipe=volumes", "recipe.images=inputs/metaimage/images", STUDIES, "recipe.codec=npy",
                  "recipe.labels=inputs/metaimage/labels.csv", "recipe.boxes=inputs/metaimage/boxes.csv",
                  "recipe.volume={spacing: [5, 10, 10], clip: [-160, 240], crop: body}", "recipe.modality=CT"],
}  # fmt: skip

# Runs of thirty steps, three an epoch; of DiRA's stages each has ten and ends within an epoch.
SIZES = ["data.shards=datasets/phantom_cxr", "data.size=64", "data.batch=16", "model.encoder=test_resnet",
         "model.decoder_channels=[32,16,16,8,8]", "validate.batch=4", "validate.restored=4", "validate.pictures=2",
         "log_every=1", "health.every=5"]  # fmt: skip
DIRA = [f"stages.{stage}.epochs=3.34" for stage in ("di", "dir", "dira")]
RECIPES = {
    "dira_moco": [*DIRA, "method.base.queue=64"],
    "dira_simsiam": [*DIRA, "method.base.dim=64", "method.base.bottleneck=16"],
    "dira_barlow": [*DIRA, "method.base.dim=64", "optim.warmup_epochs=1"],
    "byol": ["stages.di.epochs=10", "method.hidden=64", "method.dim=32", "optim.warmup_epochs=1"],
    "moco": ["stages.di.epochs=10", "method.queue=64"],
}
# Processes, and words beside the recipe's; one process has the recipe's own precision, bf16.
WAYS = {"alone": (1, []), "ddp": (2, ["precision=fp32"]), "zero2": (2, ["precision=fp32", "parallel=zero2"])}
LAYERWISE = ("dira_barlow", "byol")  # LARS, of which ZeRO would make another algorithm: it refuses

# Runs on volumes, an epoch a stage.
SCANS = ["data.shards=datasets/phantom_scans", "data.batch=4", "data.pad=true", "model.width=0.125"]
SMALL = [*SCANS, "views.extents=[]", "validate.restored=4", "validate.pictures=2", "log_every=1", "health.every=2"]
VOLUMES = {
    "small_mae3d": ["stages.mae.epochs=2"],
    "small_dira_moco3d": [
        "optim.warmup_epochs=0",
        "method.base.queue=16",
        *(f"stages.{stage}.epochs=1" for stage in ("di", "dir", "dira")),
    ],
}
# What follows them: a folder below runs/, the command, its words.
TUNE = ["stages.finetune.epochs=2", "validate.batch=4", "log_every=1"]
LABELS = "labels=[Cardiomegaly,Effusion]"
IMAGES = ["data.shards=datasets/phantom_cxr", "data.size=64"]
TUNED = {
    "tuned_labels": ["task=labels", f"task.{LABELS}", "init=runs/moco-alone", *IMAGES, "data.batch=8"],
    "tuned_masks": ["task=masks", "init=runs/dira_moco-alone", *IMAGES, "data.batch=8"],
    "tuned_volume_labels": ["task=labels", "task.labels=[part_solid,ground_glass]", "init=runs/small_mae3d",
                            *SCANS[:-1], "optim.optimizer.lr=1e-3", "validate.best=loss"],
    "tuned_volume_masks": ["task=masks", "preset=volumes_small", "init=runs/small_dira_moco3d", *SCANS[:-1],
                           "task.classes={lungs: 1, nodule: 2}", "optim.warmup_epochs=1", "views.foreground=0"],
}  # fmt: skip
CUBES = ["words=4", "neighbours.train=3", "neighbours.val=2", "size=[8,16,16]", "zoomed.sides=[12,20]",
         "zoomed.jitter=[-3,3]", "margin=[4,8,8]", "air.hu=null", "workers=1"]  # fmt: skip
FOLLOWING = {
    **{f"predicted_{run}": ("predict", [f"run=runs/{run}", shards])
       for run, shards in (("tuned_labels", IMAGES[0]), ("tuned_masks", IMAGES[0]), ("tuned_volume_masks", SCANS[0]))},
    "embedded": ("embed", ["run=runs/moco-alone", IMAGES[0], "threads=1"]),
    "embedded_volumes": ("embed", ["run=runs/small_mae3d", SCANS[0], "threads=1"]),
    "probed": ("probe", ["run=runs/moco-alone", IMAGES[0], "draws=2", "random_encoders=2"]),
    "words": ("words", ["run=runs/small_mae3d", SCANS[0], *CUBES]),
}  # fmt: skip
SELDOM = re.compile("time|date|seconds|host|commit|command|folder|path|_used|location")  # keys of when and where

Pins = Iterator[tuple[str, str]]  # names and values


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.json")
    file = parser.parse_args().file.resolve()
    if not Path(dira_scale.__file__).is_relative_to(ROOT):
        sys.exit(f"dira_scale is that of {Path(dira_scale.__file__).parent}: put PYTHONPATH={ROOT} before the command")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is running and the folder go with it
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="pins-") as temporary:
        os.chdir(temporary)
        for part in (machine, keys, api, names, orders, drawn_views, datasets, trained, followed):
            began, before = time.monotonic(), len(found)
            found |= dict(part())
            print(f"{part.__name__:12} {len(found) - before:6} values {time.monotonic() - began:5.0f} s", flush=True)
        os.chdir(ROOT)
    if not file.exists():
        file.write_text(json.dumps(found, indent=0) + "\n")
        return 0
    recorded = json.loads(file.read_text())
    different = [name for name in recorded | found if recorded.get(name) != found.get(name)]
    for name in different:
        print(f"{name}: {recorded.get(name, 'nothing')} -> {found.get(name, 'nothing')}")
    print(f"{len(different)} of {len(recorded | found)} values differ")
    return 1 if different else 0


def machine() -> Pins:
    found = environment()
    yield from ((f"machine {key}", str(found[key])) for key in ("python", "cpu_capability", *PACKAGES))


def keys() -> Pins:
    """Every key of every command, with its default."""
    for file in sorted(folder("configs").glob("*.yaml")):
        for key, value in leaves(defaults(file.stem, [])):
            yield f"key {file.stem} {key}", repr(value)


def api() -> Pins:
    """Every name that dira_scale.api offers, with its signature."""
    for name in dira_scale.api.__all__:
        offered = getattr(dira_scale.api, name)
        members = {name: offered} | {f"{name}.{part}": value for part, value in vars(offered).items()
                                     if inspect.isclass(offered) and not part.startswith("_")}  # fmt: skip
        for member, value in members.items():
            function = callable(value) and not (inspect.isclass(value) and issubclass(value, Exception))
            yield f"api {member}", str(inspect.signature(value)) if function else type(value).__name__


def names() -> Pins:
    """Every recipe under every preset, on two datasets that do not exist."""
    data = {"datasets": [{"hash": "0" * 64, "weight": 1.0}, {"hash": "1" * 64, "weight": 0.5}]}
    groups = [(folder("configs") / group).glob("*.yaml") for group in ("experiment", "pretrain/preset")]
    experiments, presets = (sorted(file.stem for file in group) for group in groups)
    for experiment, preset in product(experiments, ("", *presets)):
        words = [f"experiment={experiment}", *([f"preset={preset}"] if preset else [])]
        try:
            content: Any = OmegaConf.to_container(compose("pretrain", ["data.shards=somewhere", *words]))
        except UserError as error:
            yield " ".join(["name", *words]), str(error)
        else:
            content["data"]["block"] = 1  # as a run settles it whose shards lie on a disk
            yield " ".join(["name", *words]), run_name(content | data | {"order_version": ORDER_VERSION}, EXECUTION)


def orders() -> Pins:
    """Three epochs of each, by one process and by two."""
    for settings in (
        {"sizes": (103,), "seed": 0, "batch": 8},
        {"sizes": (103,), "seed": 1, "batch": 8, "lanes": 4, "block": 5, "window": 3, "identity": "train,abc"},
        {"sizes": (103,), "seed": 1, "batch": 8, "lanes": 2, "window": 7, "remainder": "wrap"},
        {"sizes": (60, 41), "seed": 2, "batch": 12, "weights": (0.5, 1.7), "lanes": 4, "block": 2, "identity": "x"},
        {"sizes": (5, 90), "seed": 2**63, "batch": 6, "weights": (4.0, 1.0), "block": 4, "remainder": "wrap"},
    ):
        order = Order(**settings)  # type: ignore[arg-type]
        locations = product(range(3 * order.steps_per_epoch), ((0, 1), (0, 2), (1, 2)))
        parts = [order.batch_at(step, rank, world) for step, (rank, world) in locations]
        numbers = [np.concatenate([part.epoch, part.index, part.occurrence], axis=None) for part in parts]
        yield f"order {settings}", described(np.concatenate(numbers))


def drawn_views() -> Pins:
    """Every array of a few calls, of samples that repeat and images of all shapes."""
    samples, heights, widths = np.arange(0, 9000, 70), 200 + np.arange(129) * 7, 1100 - np.arange(129) * 8
    for size, target, seed, epoch, view in product((224, 64), views.TARGET_FLIPS, (0, 7), (0, 5), (0, 1)):
        spec = views.ViewSpec(size=size, target_flip=target)
        for drawn in views.draw(spec, seed, epoch, samples, samples % 3, view, heights, widths):
            arrays = vars(drawn) if isinstance(drawn, views.Geometry) else drawn.tensors()
            for column, value in ((column, value) for column, value in arrays.items() if value is not None):
                name = f"view {size} {target} seed {seed} epoch {epoch} view {view} {column}"
                yield name, described(value[:, 1] if column == "flip" else value)  # left and right


def datasets() -> Pins:
    """Every file, and the lists of rejected names beside the folders."""
    draw(Path("inputs/drawn"), 12)
    radiographs.generate(Path("inputs/dicom"), 6, size=128, mixture="small")
    scans.generate(Path("inputs/metaimage"), 2, kind="abdomen", format="metaimage", size=32)
    for name, words in DATASETS.items():
        own = [] if name.startswith("phantom") else [f"recipe.name={name}", "recipe.licence=none"]
        call("shard", *words, *own, f"out=datasets/{name}", "workers=1")
    yield from ((str(path), digest(path.read_bytes())) for path in files(Path("datasets")))


def trained() -> Pins:
    for recipe, way in product(RECIPES, WAYS):
        if way != "zero2" or recipe not in LAYERWISE:
            yield from of_run(pretrain(f"{recipe}-{way}", recipe, way))
    pretrain("dira_moco-stopped", "dira_moco", "ddp", "steps=17")  # within a stage and an epoch
    yield from of_run(pretrain("dira_moco-stopped", "dira_moco", "ddp", "steps=30"))


def followed() -> Pins:
    """Runs on volumes, fine-tuned runs, and what reads them."""
    for name, words in VOLUMES.items():
        call("pretrain", f"experiment={name}", *SMALL, *words, "parallel.threads=1", f"run=runs/{name}")
        yield from of_run(Path("runs", name))
    for name, words in TUNED.items():
        call("finetune", *words, *TUNE, "parallel.threads=1", f"run=runs/{name}")
        yield from of_run(Path("runs", name))
        yield from of_output(Path("runs", name, "cases"))
        yield from of_json(Path("runs", name, "results.json"))
    for name, (command, words) in FOLLOWING.items():
        call(command, *words, f"out=outputs/{name}")
        yield from of_output(Path("outputs", name))


def pretrain(name: str, recipe: str, way: str, *more: str) -> Path:
    processes, overrides = WAYS[way]
    launcher = ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m"]
    words = [f"experiment={recipe}", *SIZES, *RECIPES[recipe], *overrides, *more]
    call("pretrain", *words, f"parallel.threads={2 // processes}", f"run=runs/{name}", by=launcher * (processes > 1))
    return Path("runs", name)


def of_run(run: Path) -> Pins:
    """Its name, rows, last checkpoint and files."""
    yield f"{run} name", json.loads((run / "environment.json").read_text())["run"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    yield f"{run} rows", " ".join(f"{row['split']}-{row['step']}" for row in rows)
    for row in rows:
        for key, value in row.items():
            if not key.startswith(("time/", "loader/")) and not key.endswith("_per_second") and key != "lease":
                yield f"{run} {row['split']} {row['step']} {key}", repr(value)
    tensors, state = checkpoint.load(checkpoint.latest(run))
    yield from ((f"{run} state {key}", repr(value)) for key, value in state.items())
    yield from ((f"{run} {name}", described(tensor)) for name, tensor in tensors.items())
    for path in files(run):
        if path.relative_to(run).parts[0] not in ("leases", "tensorboard", "stacks"):  # times and hosts in their names
            yield str(path), digest(path.read_bytes()) if path.parent.name == "pictures" else "is there"


def of_output(folder: Path) -> Pins:
    """What a command wrote, but for times and places."""
    for path in files(folder):
        content = re.sub(rb"commit [0-9a-f]+", b"", path.read_bytes()) if path.suffix == ".md" else path.read_bytes()
        yield from of_json(path) if path.suffix == ".json" else [(str(path), digest(content))]


def of_json(path: Path) -> Pins:
    for key, value in leaves(OmegaConf.create({"": json.loads(path.read_text())})):
        if not SELDOM.search(key):
            yield f"{path} {key}", repr(value)


def call(command: str, *words: str, by: list[str] | None = None) -> None:
    """A command of this checkout, to its end."""
    line = [sys.executable, "-m", *(by or []), f"dira_scale.{command}", *words]
    # No GPU, whose sums are not always the same; on a busy machine, threads that spin would take the cores.
    alike = {"CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "PASSIVE", "DIRA_SCALE_HASH_KEY": "the key of the pins"}
    with job(line, fresh=True, PYTHONPATH=str(ROOT), **alike) as process:
        if code := process.wait(SECONDS):
            sys.exit(f"{' '.join(line)} ended with {code}:\n{process.printed()}")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def described(values: np.ndarray | torch.Tensor) -> str:
    tensor = torch.as_tensor(values)
    return f"{tensor.dtype} {list(tensor.shape)} {digest(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())}"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


if __name__ == "__main__":
    sys.exit(main())
