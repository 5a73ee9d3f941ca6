"""A recipe's identity is what its dataset was made of: it must not change by accident."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale.ingest.deidentify import PUBLIC_KEY, Hasher
from dira_scale.ingest.recipe import Recipe, identity_hash

# The first 16 digits of each recipe's hash.
MODALITIES = {"msd": "MR", "volumes": "CT"}  # of those whose modality the inputs say
GOLDEN = {
    "brats": "326e68db92de1e94",
    "chestxray14": "224374c23fdbd022",
    "chestxray14_small": "0e34458e45701099",
    "chexpert": "6705073a7f02b5f8",
    "folder": "a89683900dd86661",
    "jsrt": "a0ae39ac42ee7615",
    "lidc_idri": "7b1fdc778dec7714",
    "lidc_vois": "e8a0663febffb9d5",
    "lits": "dae01e5ed6974d67",
    "luna16": "c58dbe98769aed10",
    "luna16_candidates": "ce1be222f5c5c610",
    "medmnist": "957d119ee8b371be",
    "montgomery": "41879a54a9ac277b",
    "msd": "6e47b83b622935f1",
    "pediatric_pneumonia": "bfd5e402cfaeef86",
    "phantom_abdomen": "af30fc0c822a6ef3",
    "phantom_ct": "b29a4b2cd89f957e",
    "phantom_cxr": "a70ee5dff0fcc541",
    "phantom_small": "c41b43c7e36c2336",
    "shenzhen": "45b6fb3e29d73e67",
    "shenzhen_original": "3489c07607dead53",
    "siim_acr": "8c045392c81975b7",
    "volumes": "96905106c5cd5157",
}


def test_every_recipe_is_pinned() -> None:
    recipes = Path(__file__).parents[2] / "shards" / "recipe"
    assert {path.stem for path in recipes.glob("*.yaml")} == GOLDEN.keys()


@pytest.mark.parametrize("name", GOLDEN)
def test_the_identity_of_a_recipe_stays(name: str, ingest: SimpleNamespace) -> None:
    """Else a dataset that was begun is refused by the command that began it, and a finished one by ``repair``."""
    keys = {"modality": MODALITIES[name]} if name in MODALITIES else {}
    for place in ("/data/here", "there/too.npz"):
        recipe = Recipe.from_config(ingest.recipe(name, images=place, **keys))
        assert identity_hash(recipe.identity(Hasher(PUBLIC_KEY, recipe.archive)))[:16] == GOLDEN[name]
