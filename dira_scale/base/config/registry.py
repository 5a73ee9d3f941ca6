"""The names of our classes in configurations, runs, exports and recipes: ``_target_: MoCo``.

A registered name is no path of code: it stays when a module moves, and a stranger's folder that holds one imports
nothing but the class below. Classes of others are named by their path, ``package.module.Class`` (base/config/trust.py).
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dira_scale.base.config.trust import require_trusted
from dira_scale.base.errors import UserError, nearest

TARGET = "_target_"  # of a node: the class that it configures
_MODULES = {
    "dira_scale.train.methods.barlow": ("BarlowTwins",),
    "dira_scale.train.methods.byol": ("BYOL",),
    "dira_scale.train.methods.c2l": ("C2L",),
    "dira_scale.train.methods.cpc": ("CPC",),
    "dira_scale.train.methods.dino": ("DINO",),
    "dira_scale.train.methods.dinov2": ("DINOv2",),
    "dira_scale.train.methods.dira": ("DiRA",),
    "dira_scale.train.methods.distil": ("Distil",),
    "dira_scale.train.methods.jigsaw": ("Jigsaw",),
    "dira_scale.train.methods.lejepa": ("LeJEPA",),
    "dira_scale.train.methods.mae": ("MAE",),
    "dira_scale.train.methods.moco": ("MoCo",),
    "dira_scale.train.methods.models_genesis": ("ModelsGenesis",),
    "dira_scale.train.methods.pcrl": ("PCRL", "PCRLReleased"),
    "dira_scale.train.methods.pcrl_rotation": ("PCRLRotation",),
    "dira_scale.train.methods.relative_position": ("RelativePosition",),
    "dira_scale.train.methods.rotation": ("Rotation", "RotationReleased"),
    "dira_scale.train.methods.rubiks_cube": ("RubiksCube",),
    "dira_scale.train.methods.simclr": ("SimCLR",),
    "dira_scale.train.methods.simsiam": ("SimSiam",),
    "dira_scale.train.methods.swav": ("SwAV",),
    "dira_scale.train.methods.transvw": ("TransVW",),
    "dira_scale.train.methods.vicreg": ("VICReg",),
    "dira_scale.train.models.architecture": ("TimmUNet",),
    "dira_scale.train.models.volume.architecture": ("InflatedViT", "ResEnc", "SwinUNETR", "UNet3D", "ViT3D"),
    "dira_scale.train.data.views": (
        "Blur", "Cutout", "InverseCutout", "Jitter", "Shuffle", "SizedCrop", "Tone", "ViewSpec", "Warp",
    ),
    "dira_scale.train.data.distort.corruptions": (
        "Affine", "Bezier", "BlockMask", "BlockwiseMask", "CropBlocks", "Elastic", "GaussianBlur", "GaussianNoise",
        "Inpaint", "LocalShuffle", "OneOf", "Outpaint", "PatchMask", "PatchPair", "ShuffleBlocks", "SwapPatches",
        "Turn", "TurnBlocks",
    ),
    "dira_scale.judge.tasks.candidates": ("CandidateTask",),
    "dira_scale.judge.tasks.labels": ("LabelTask",),
    "dira_scale.judge.tasks.masks": ("MaskTask",),
    "dira_scale.judge.tasks.ordinal": ("OrdinalTask",),
    "dira_scale.judge.tasks.regression": ("RegressionTask",),
    "dira_scale.judge.tasks.survival": ("SurvivalTask",),
    "dira_scale.archive.sources.acdc": ("Acdc",),
    "dira_scale.archive.sources.bids": ("Bids",),
    "dira_scale.archive.sources.brats": ("Brats",),
    "dira_scale.archive.sources.chestxray14": ("ChestXray14",),
    "dira_scale.archive.sources.chexpert": ("CheXpert",),
    "dira_scale.archive.sources.cityscapes": ("Cityscapes",),
    "dira_scale.archive.sources.ct_rate": ("CtRate",),
    "dira_scale.archive.sources.folder": ("Folder",),
    "dira_scale.archive.sources.imagenet": ("ImageNet",),
    "dira_scale.archive.sources.jsrt": ("Jsrt",),
    "dira_scale.archive.sources.lidc_idri": ("LidcIdri", "LidcNodules", "LidcVois"),
    "dira_scale.archive.sources.lits": ("Lits",),
    "dira_scale.archive.sources.luna16": ("Luna16", "Luna16Candidates"),
    "dira_scale.archive.sources.medmnist": ("MedMnist",),
    "dira_scale.archive.sources.mimic_cxr": ("MimicCxr",),
    "dira_scale.archive.sources.msd": ("Msd",),
    "dira_scale.archive.sources.nlm_tuberculosis": ("NlmTuberculosis",),
    "dira_scale.archive.sources.padchest": ("PadChest",),
    "dira_scale.archive.sources.phantom": ("Phantom",),
    "dira_scale.archive.sources.phantom_ct": ("PhantomCT",),
    "dira_scale.archive.sources.pictures": ("Pictures",),
    "dira_scale.archive.sources.rsna_pneumonia": ("RsnaPneumonia",),
    "dira_scale.archive.sources.sequences": ("Sequences",),
    "dira_scale.archive.sources.siim_acr": ("SiimAcr",),
    "dira_scale.archive.sources.totalsegmentator": ("TotalSegmentator",),
    "dira_scale.archive.sources.vindr_cxr": ("VinDrCxr",),
    "dira_scale.archive.sources.volumes": ("Volumes",),
}  # fmt: skip
_MOVED = {  # folders and files of before the wings, by where they lie now
    **{name: f"base.{name}" for name in ("arguments", "config", "errors", "machine", "storage", "termination")},
    **{name: f"train.{name}" for name in ("data", "distributed", "engine", "losses", "methods", "models", "runs")},
    **{name: f"judge.{name}" for name in ("evaluation", "pages", "tasks")},
    **{name: f"archive.{name}" for name in ("imaging", "phantom")},
    **{name: f"dataset.{name}" for name in ("metrics", "pixels")},
    **{f"data.{name}": f"dataset.{name}" for name in ("epochs", "manifest")},
    **{f"data.{name}": f"dataset.manifest.{name}" for name in ("beton", "tar")},
    "training": "train",
    "forecast": "fleet.forecast",
    "forecast.config": "train.planned",
}
REGISTERED: Mapping[str, str] = {name: f"{module}.{name}" for module, names in _MODULES.items() for name in names}


def imported(key: str, target: object) -> Any:
    """Return what ``key``, a ``_target_``, names: a registered name, or the path of a class.

    Raises UserError if there is no such name, or the path cannot be imported or is not trusted.
    """
    path = REGISTERED.get(name := str(target), name)
    if "." not in path:
        alike = {known.lower(): known for known in REGISTERED}.get(name.lower(), name)
        hint = nearest(alike, REGISTERED) or f"; registered are {', '.join(sorted(REGISTERED))}"
        raise UserError(f"{key}: {name} is neither a registered name nor a PACKAGE.MODULE.NAME{hint}")
    if name not in REGISTERED:
        if now := _moved(name):
            raise UserError(f"{key}: {name} is {now} now: write that")
        require_trusted(name, key)
    try:
        return _resolved(path)
    except UserError:
        raise
    except ModuleNotFoundError as error:
        now = f": it is {now} now" if (now := _moved(error.name or "")) else ""
        raise UserError(f"{key}: {target} cannot be imported: {error}{now}") from error
    except (Exception, SystemExit) as error:  # whatever a module of the user's raises
        raise UserError(f"{key}: {target} cannot be imported: {' '.join(str(error).split())}") from error


def chosen_class(base: type, key: str, target: str) -> type:
    """Return the class that ``key``, a ``_target_``, names; raise UserError if it is not derived from ``base``."""
    chosen = imported(key, target)
    if not (isinstance(chosen, type) and issubclass(chosen, base)):
        raise UserError(f"{key}: {target} is not a {base.__module__}.{base.__qualname__}")
    return chosen


def _moved(path: str) -> str | None:
    """Return the name or path today of what had this path before the wings."""
    package, *names = path.split(".")
    if package == "dira_scale" and path not in REGISTERED.values():
        if names[-1] in REGISTERED:
            return names[-1]
        for count in (2, 1):
            if folder := _MOVED.get(".".join(names[:count])):
                return ".".join([package, folder, *names[count:]])
    return None


def _resolved(path: str) -> Any:
    """Import as pkgutil.resolve_name does, but tell why a module cannot be imported, which that hides."""
    parent, _, name = path.rpartition(".")
    try:
        owner = import_module(parent)
    except ModuleNotFoundError as error:
        if error.name != parent or "." not in parent:  # a package that it needs is missing, or the first one is
            raise
        owner = _resolved(parent)  # a class in a module
    return getattr(owner, name)
