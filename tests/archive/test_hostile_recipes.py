"""Recipes of others (``--config-dir``) are data: no code runs, what does not fit is one line."""

from pathlib import Path

import pytest
from archive.sandbox import listing
from omegaconf import OmegaConf

from dira_scale.archive.recipe import Recipe
from dira_scale.config.compose import compose
from dira_scale.errors import UserError, printable

GOOD = "defaults: [folder, _self_]\nname: theirs\nimages: {images}\n"
RECIPES = {
    "a tag that calls": 'x: !!python/object/apply:os.mkdir ["owned"]\n',
    "a target that evaluates": "_target_: builtins.eval\nsource: __import__('os').mkdir('owned')\n",
    "an alias of itself": "a: &a [*a]\n",
    "an unknown resolver": "x: ${system:mkdir owned}\n",
    "the environment, by a name in parts": "notes: env\nlicence: ${oc.${recipe.notes}:PATH}\n",
    "a source of others": "_target_: owned.Source\n",
    "defaults above": "defaults: [../../../../etc/passwd]\n",
}  # fmt: skip


def theirs(folder: Path, text: str) -> list[str]:
    """The arguments of somebody who uses that recipe."""
    (folder / "theirs" / "recipe").mkdir(parents=True)
    (folder / "images").mkdir()
    content = GOOD.format(images=folder / "images") + text if not text.startswith(("[", "defaults", "owned")) else text
    (folder / "theirs" / "recipe" / "theirs.yaml").write_text(content)
    return ["--config-dir", str(folder / "theirs"), "recipe=theirs", f"out={folder / 'out'}"]


def test_a_recipe_of_ones_own_is_taken(tmp_path: Path) -> None:
    config = compose("shard", theirs(tmp_path, "codec: jpg\nofficial: &a {b: {train: 1}}\nsplits: {train: 1}\n"))
    assert config.recipe.codec == "jpg" and config.recipe.name == "theirs"


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_others(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = theirs(tmp_path, RECIPES[name])
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(UserError) as error:
        plain = OmegaConf.to_container(compose("shard", words).recipe, resolve=True)
        Recipe.from_config(plain).make_source()  # type: ignore[arg-type]
    assert len(printable(str(error.value))) < 2000
    assert listing(tmp_path) == before and not (tmp_path / "owned").exists()
