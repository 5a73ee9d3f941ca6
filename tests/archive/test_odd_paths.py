"""Folders with umlauts, blanks and the shell's and Hydra's characters, from images to the export's configuration."""

from pathlib import Path

from dira_scale.config.compose import compose
from dira_scale.data.manifest import ShardedDataset
from dira_scale.shard import main

ODD = "Röntgen Äß (2024) & # ' ! ~ , = [x] {y} $HOME ${a} %"


def test_folders_of_any_name_go_through_all_verbs(png_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / ODD
    png_folder.rename(folder)
    images, labels, out = folder / "images", folder / "labels.csv", tmp_path / f"shards {ODD}"
    columns = "recipe.columns={file: file, patient: patient}"
    words = ["recipe=folder", f"recipe.images={images}", f"recipe.labels={labels}", columns, f"out={out}", "workers=1"]
    assert main(words) == 0
    for verb in ("pretrain", "plan"):
        shards = compose(verb, ["experiment=small", f"data.shards={out}", f"run={folder}"]).data.shards
        assert ShardedDataset.open(shards).root == out
    config = compose("export", [f"run={folder}", f"out={out}"])
    assert (config.run, config.out) == (str(folder), str(out))
