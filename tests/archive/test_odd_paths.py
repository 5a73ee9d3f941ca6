"""Folders with umlauts, blanks and the shell's and Hydra's characters, from images to the export's configuration."""

from pathlib import Path

from dira_scale.config.compose import compose
from dira_scale.config.keys import as_words
from dira_scale.data.manifest import ShardedDataset
from dira_scale.shard import main

ODD = "Röntgen Äß (2024) & # ' ! ~ , = [x] {y} $HOME %"


def test_folders_of_any_name_go_through_all_verbs(png_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    png_folder.rename(folder)
    images, labels, out = folder / "images", folder / "labels.csv", tmp_path / f"shards {ODD}"
    values = {"recipe": "folder", "recipe.images": str(images), "recipe.labels": str(labels), "out": str(out)}
    columns = "recipe.columns={file: file, patient: patient}"
    assert main([*as_words(values), columns, "workers=1"]) == 0
    for verb in ("pretrain", "plan"):
        config = compose(verb, ["experiment=small", *as_words({"data.shards": str(out), "run": str(folder)})])
        assert ShardedDataset.open(config.data.shards).root == out
    config = compose("export", as_words({"run": str(folder), "out": str(out)}))
    assert (config.run, config.out) == (str(folder), str(out))
