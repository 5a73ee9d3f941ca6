"""Every kind of command reads and writes where it was told to, whatever the folder is called."""

from pathlib import Path

import numpy as np
import pytest
from archive.sandbox import here
from PIL import Image

from dira_scale import shard
from dira_scale.base.config.keys import as_words

NAME = "Bilder (2024), a=b & $x {z} [0] #1 it's"


@pytest.fixture
def location(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "a key for tests only, of some length")
    location = tmp_path / NAME / "äü"
    location.mkdir(parents=True)
    return location


def test_from_a_folder_of_pictures_to_a_part(location: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = location / "images"
    images.mkdir()
    for n in range(24):
        pixels = np.random.default_rng(n).integers(0, 255, (48, 48), np.uint8)
        Image.fromarray(pixels).save(images / f"{n}.png")
    (location / "labels.csv").write_text("file,patient,odd\n" + "".join(f"{n}.png,{n},{n % 2}\n" for n in range(24)))
    monkeypatch.setenv("HOME", str(tmp_path))
    labels = f"~/{NAME}/äü/labels.csv"
    with here():
        words = {"recipe.images": str(images), "recipe.labels": labels, "out": str(location / "out"), "workers": 1}
        assert shard.main(as_words(words)) == 0
        assert shard.main(["verify", *as_words({"path": str(location / "out"), "workers": 1})]) == 0
    assert shard.main(["subset", *as_words({"path": str(location / "out"), "out": str(location / "part")})]) == 0
    assert sorted(path.name for path in location.iterdir() if path.is_dir()) == ["images", "out", "part"]
    assert (location / "part" / "dataset.json").is_file()
