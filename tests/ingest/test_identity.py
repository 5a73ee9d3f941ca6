"""A recipe's identity is what its dataset was made of: it must not change from one version to the next."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from dira_scale.ingest.deidentify import PUBLIC_KEY, Hasher
from dira_scale.ingest.recipe import Recipe, identity_hash

# The first 16 digits of each recipe's hash, as of the first version that had it (folder's since its modality is null).
MODALITIES = {"msd": "MR", "volumes": "CT"}  # of those whose modality the inputs say
GOLDEN = {
    "brats": "799138cbbfa1556d",
    "chestxray14": "3869050599e344fa",
    "chestxray14_small": "6b785360ad05da0f",
    "chexpert": "d161691d8f0470e7",
    "folder": "056ab8062e358abf",
    "jsrt": "dc898488ed5f400d",
    "lidc_idri": "56cd41090316b302",
    "lidc_vois": "3fe69a7e12718f03",
    "lits": "6b4da7b21f2cab12",
    "luna16": "dfc69637aeddf347",
    "luna16_candidates": "99c15fbfa7a8317f",
    "medmnist": "36fa693b10484a99",
    "montgomery": "d0ce803518a2463a",
    "msd": "48b9b164ee701c75",
    "pediatric_pneumonia": "799433f731d59d7d",
    "phantom_abdomen": "6078e5486185abb3",
    "phantom_ct": "03c74fd74f8a7721",
    "phantom_cxr": "f9dafa23770fb770",
    "phantom_small": "49311cb886339624",
    "shenzhen": "fc7f9721ca854ca7",
    "shenzhen_original": "e9952613da171d89",
    "siim_acr": "e2ede77313b15acb",
    "volumes": "8c838f2d34df1628",
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
    assert identity_hash(recipe.identity(Hasher(PUBLIC_KEY, recipe.archive)))[:16] == "d4ec8810b716930f"
