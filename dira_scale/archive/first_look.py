"""Look at the first images before a conversion writes: where most are of the wrong kind, a key is wrong, not the files.

The plan is in the order of hashes, so its first images are drawn from all.
"""

import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dira_scale.archive.imaging.burned_in import LetteringError
from dira_scale.archive.imaging.colour import ColourError
from dira_scale.archive.imaging.grey import GreyImage
from dira_scale.archive.output import beside
from dira_scale.archive.plan import Item
from dira_scale.archive.reading import QuarantinedError, read_input
from dira_scale.archive.recipe import Recipe
from dira_scale.base.errors import UserError, counted
from dira_scale.base.storage.atomic import write_atomic
from dira_scale.base.storage.owned import own_file

LOOKED_AT = 16  # images
MOST = 0.5  # share of the images that can be read, from which on lettering stops a conversion
STAMP = "dira_scale lettering"  # in a sheet, by which it is known as one
SHOWN, ACROSS, TILE = 9, 3, 600  # pictures of a sheet, in a row of it, and the pixels of each


def check_first(items: Iterable[Item], recipe: Recipe, out: Path) -> None:
    """Raise UserError if the first images of a recipe in 2D seem to show lettering in most cases, or if none can be
    stored and some are in colour where the recipe stores grey, or the reverse. Of lettering, a sheet of pictures
    is written beside ``out``."""
    if recipe.dims == 3:
        return
    first = list(islice((item for item in items if item.record.rejected is None), LOOKED_AT))
    stages, reason, lettered = Counter[str](), "", list[Item]()
    for item in first:
        try:
            read_input(item, recipe)
            stages["read"] += 1
        except QuarantinedError as error:
            stages[error.stage] += 1
            reason = error.reason if error.stage == ColourError.stage else reason
            lettered += [item] if error.stage == LetteringError.stage else []
    if not stages["read"] and stages[ColourError.stage]:
        raise UserError(
            f"recipe.colour={recipe.colour}: none of the first {counted(len(first), 'image')} can be stored, "
            f"{stages[ColourError.stage]} of them because they are {reason}"
        )
    if len(lettered) > MOST * (len(lettered) + stages["read"]):
        sheet = beside(out, "lettering.png")
        own_file(sheet, "out", stamp=STAMP)
        write_atomic(sheet, _sheet(lettered[:SHOWN], recipe), private=True)
        raise UserError(
            f"{len(lettered)} of the first {counted(len(first), 'image')} seem to show lettering, which may be names: "
            f"nothing was written but {sheet}, which shows {min(SHOWN, len(lettered))} of them. If neither it nor your "
            "other images show a name, a number or a date of a patient, add recipe.burned_in=tagged",
            add=("recipe.burned_in=tagged",),
        )


def _sheet(items: Sequence[Item], recipe: Recipe) -> bytes:
    """A PNG of the images."""
    accepting = replace(recipe, burned_in="keep")
    sheet = Image.new("L", (ACROSS * TILE, -(-len(items) // ACROSS) * TILE))
    for number, item in enumerate(items):
        image = read_input(item, accepting)
        assert isinstance(image, GreyImage)
        tile = Image.fromarray((image.pixels * (255 / image.high)).astype(np.uint8)).convert("L")
        tile.thumbnail((TILE - 4, TILE - 4))
        sheet.paste(tile, (number % ACROSS * TILE, number // ACROSS * TILE))
    file = io.BytesIO()
    about = PngInfo()
    about.add_text("Software", STAMP)
    sheet.save(file, "PNG", pnginfo=about)
    return file.getvalue()
