"""A recipe's identity is what its dataset was made of: it must not change from one version to the next."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale.ingest.deidentify import PUBLIC_KEY, Hasher
from dira_scale.ingest.recipe import Recipe, identity_hash

# The first 16 digits of each recipe's hash, as of the first version that had it (folder's since its modality is null).
MODALITIES = {"msd": "MR", "volumes": "CT"}  # of those whose modality the inputs say
GOLDEN = {
    "brats": "1cbc7f6709fa4716",
    "chestxray14": "844f528c34796070",
    "chestxray14_small": "6065e181cfc3cfa6",
    "chexpert": "af1bf84372b817eb",
    "folder": "985817a60c2bbc26",
    "jsrt": "b96f301d4205bebe",
    "lidc_idri": "5e45569df017edeb",
    "lidc_vois": "9f104ac8c967799b",
    "lits": "97d5f2e21205cccc",
    "luna16": "1e28116ddefc4de9",
    "luna16_candidates": "18c9575e7736931a",
    "medmnist": "9f731f1d31aa5da9",
    "montgomery": "0dde94986b430d37",
    "msd": "c8cc642c247f60c0",
    "pediatric_pneumonia": "dd7ffda26d0e478e",
    "phantom_abdomen": "6e4dfd30fcaffce5",
    "phantom_ct": "bb2ab76a46e75de1",
    "phantom_cxr": "18648126971b0266",
    "phantom_small": "a7df7e9c00071443",
    "shenzhen": "394729d674439952",
    "shenzhen_original": "b73be9ab96b5217b",
    "siim_acr": "74cf6c4a86ba3302",
    "volumes": "0b8b1b5aa822ef86",
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


def test_the_identity_of_a_folder_stays_where_name_and_modality_are_set(ingest: SimpleNamespace) -> None:
    """Both were the defaults of the first version."""
    recipe = Recipe.from_config(ingest.recipe("folder", images="x", name="folder", modality="CXR"))
    assert identity_hash(recipe.identity(Hasher(PUBLIC_KEY, recipe.archive)))[:16] == "e6f003bcfd7c2e9e"
