"""The tables of names in docs/reference/api.md: ``python tests/api_page.py`` writes them from the docstrings into the
page, and ``test_api.py`` compares."""

import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "api.md"
TABLE = re.compile(r"(<!-- names: (\w+) -->\n)(?:\|.*\n)*")
# Classes and functions by name; of a module all its classes.
LISTED = {
    "methods": """methods.method methods.dira methods.moco methods.simsiam methods.barlow methods.byol methods.vicreg
        methods.simclr methods.swav methods.lejepa methods.dino methods.dinov2 methods.c2l methods.pcrl.PCRL
        methods.transvw methods.rotation
        methods.relative_position methods.models_genesis methods.mae methods.adversary""",
    "losses": """losses.info_nce.info_nce losses.info_nce.nce losses.distillation.cross_entropy
        losses.distillation.centred_softmax losses.distillation.sinkhorn_knopp losses.distillation.koleo
        losses.gram.gram_loss
        losses.cosine.negative_cosine losses.covariance.VICRegLoss losses.sigreg.epps_pulley
        losses.restoration.hidden_mean""",
    "views": """data.views.spec.ViewSpec data.views.parts.Jitter data.views.parts.Blur data.views.parts.Cutout
        data.views.parts.InverseCutout data.views.parts.Shuffle data.views.parts.SizedCrop data.views.parts.Tone
        data.views.parts.Warp""",
    "networks": """models.encoder.build_encoder models.unet.UNet models.volume.unet3d.UNet3DEncoder
        models.volume.resenc.ResEncEncoder models.volume.swinunetr.SwinEncoder models.volume.vit3d.ViT3DEncoder
        models.volume.inflated.build_inflated""",
}


def filled(page: str) -> str:
    """The page with the table of each ``<!-- names: … -->`` below it."""
    return TABLE.sub(lambda found: found[1] + table(LISTED[found[2]].split()), page)


def table(listed: list[str]) -> str:
    rows = [f"| `{name}` | {summary(value)} |\n" for each in listed for name, value in names(f"train.{each}")]
    return "| name | |\n|---|---|\n" + "".join(rows)


def names(path: str) -> list[tuple[str, object]]:
    """A class or function alone; of a module its public classes, in the order of its text."""
    value = resolve_name(f"dira_scale.{path}")
    if not inspect.ismodule(value):
        return [(path, value)]
    classes = [each for each in vars(value).values() if inspect.isclass(each) and each.__module__ == value.__name__]
    return [(f"{path}.{each.__name__}", each) for each in classes if not each.__name__.startswith("_")]


def summary(value: object) -> str:
    """The first sentence of its docstring, to a colon or semicolon that is not within brackets."""
    text = " ".join((inspect.getdoc(value) or "").partition("\n\n")[0].split())
    text = re.split(r"(?<=\.)\s(?=[A-Z`])", text)[0]
    ends = [end.start() for end in re.finditer(r"[:;] ", text)]
    first = next((text[:end] + "." for end in ends if text.count("(", 0, end) == text.count(")", 0, end)), text)
    return re.sub(r":\w+:(?=`)", "", first).replace("|", "\\|").replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
