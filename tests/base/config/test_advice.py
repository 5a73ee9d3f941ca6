"""A part says what is missing, and the command says what to type."""

import re
from pathlib import Path

import dira_scale
from dira_scale.archive.reading import ACCEPTED
from dira_scale.base.config.border import RESHARD, advised
from dira_scale.base.errors import DatasetError, UserError
from dira_scale.train.data.requests import COLUMNS

CODE = "\n".join(path.read_text() for path in Path(dira_scale.__path__[0]).rglob("*.py"))


def test_every_lack_of_a_dataset_has_its_advice_and_the_reverse() -> None:
    assert {*re.findall(r'lacks="([^"]+)"', CODE)} | COLUMNS.keys() == RESHARD.keys()
    lacking = DatasetError("toy has no labels", lacks="labels")
    assert advised(lacking).startswith("toy has no labels: shard it again with recipe.labels")
    assert advised(DatasetError("toy is damaged")) == "toy is damaged" and advised(UserError("no")) == "no"


def test_every_rejection_that_a_setting_decides_names_its_key_and_the_reverse() -> None:
    assert {*re.findall(r'decided_by="([^"]+)"', CODE)} == ACCEPTED.keys()
