"""A recipe's identity is what its dataset was made of: it must not change by accident."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher
from dira_scale.archive.recipe import Recipe, identity_hash

# The first 16 digits of each recipe's hash.
MODALITIES = {"msd": "MR", "volumes": "CT"}  # of those whose modality the inputs say
GOLDEN = {
    "brats": "093929e928867a1b",
    "chestxray14": "7dff6abebbcd8381",
    "chestxray14_small": "95408b5e0cb72aac",
    "chexpert": "d14546261d117073",
    "folder": "6f3d49e8ce28540e",
    "jsrt": "407e251955d792fa",
    "lidc_idri": "45bb1649f926bd73",
    "lidc_vois": "ad31ff56d544e361",
    "lits": "faf60a2db922b3c2",
    "luna16": "55740a59b383a8a4",
    "luna16_candidates": "0e800b43e4b2bfce",
    "medmnist": "2c8c956321c0e93b",
    "montgomery": "ccacc594cae68625",
    "msd": "1d65309f17dc5083",
    "pediatric_pneumonia": "649f501407987378",
    "phantom_abdomen": "cc71e286d8e98e08",
    "phantom_ct": "519693690363c2fd",
    "phantom_cxr": "8058e0c7df7e3336",
    "phantom_small": "8722488420f0a2b2",
    "shenzhen": "8d4f4f4b2623d4b9",
    "shenzhen_original": "b629b7e23063eb73",
    "siim_acr": "3fc6fba1a467ff0a",
    "volumes": "f9e00072b952cb26",
}


def test_every_recipe_is_pinned() -> None:
    recipes = Path(__file__).parents[2] / "shards" / "recipe"
    assert {path.stem for path in recipes.glob("*.yaml")} == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_identity_of_a_recipe_stays(name: str, ingest: SimpleNamespace) -> None:
    """Else a dataset that was begun is refused by the command that began it, and a finished one by ``repair``."""
    keys = {"modality": MODALITIES[name]} if name in MODALITIES else {}
    for location in ("/data/here", "there/too.npz"):
        recipe = Recipe.from_config(ingest.recipe(name, images=location, **keys))
        assert identity_hash(recipe.identity(Hasher(PUBLIC_KEY, recipe.archive)))[:16] == GOLDEN[name]
