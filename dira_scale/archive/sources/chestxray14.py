"""NIH's ChestX-ray14: its tables of findings, its official lists, its boxes (Wang et al., CVPR 2017)."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from dira_scale.archive.imaging.boxes import Box
from dira_scale.archive.sources.base import SourceRecord
from dira_scale.archive.sources.published import ListedFiles, files_ending, listed_in
from dira_scale.archive.sources.split_lists import split_lists, splits_of
from dira_scale.base.config.schema import PathStr
from dira_scale.base.errors import UserError, nearest
from dira_scale.base.storage.tables import cell_number, read_names, read_table, table_error
from dira_scale.base.storage.walk import folder_at

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
COLUMNS = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "Patient Gender", "View Position")
OLDEST = 120  # years; the first release gives some patients 148 to 414
Entry = tuple[tuple[float, ...], str, dict[str, str]]  # of an image: labels, patient, attributes


class ChestXray14(ListedFiles):
    """Images anywhere below ``images`` (``images_001/images`` … ``images_012/images``, or all in ``images``).

    Args:
        images: the folder with the table of findings, the two lists and, if wanted, the boxes.
        lists: a folder of published lists for train, val and, if there is one, test, which replace the official lists
            (without one for test, the official test list stays). Images in none of them are rejected.
        attributes: any of sex, age, view.

    Raises:
        UserError: a missing list or column; an invalid finding or box; an image listed twice or in two lists; a
            listed image that is not in the table of findings.
    """

    label_names: Sequence[str] = FINDINGS
    takes_lists = True

    def __init__(self, images: PathStr, lists: PathStr | None = None, attributes: Sequence[str] = ()):
        self.root, self.attributes = folder_at(images), attributes
        self.table = listed_in(self.root, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
        self.official = lists is None
        self.lists = split_lists(lists) if lists is not None else {}
        for name in ("train_val", "test") if self.official else ("test",):
            if name not in self.lists:
                self.lists[name] = listed_in(self.root, f"{name}_list.txt")
        self.boxes = self.root / "BBox_List_2017.csv"

    def listed(self) -> Iterator[SourceRecord]:
        """Listed images, rejected if missing, and images that the table or the lists do not have, rejected."""
        entries = self._entries()
        if self.official:
            splits = {name: split for split, path in self.lists.items() for name in read_names(path)}
            if twice := next((n for n in read_names(self.lists["train_val"]) if splits[n] == "test"), None):
                raise UserError(f"{twice} is in both official lists, {' and '.join(map(str, self.lists.values()))}")
        else:
            splits = splits_of(self.lists, entries.keys(), len(FINDINGS))
        boxes: dict[str, list[Box]] = {}
        if self.boxes.is_file():
            sides = ("Bbox [x", "y", "w", "h]")  # as in the header, which has three unnamed columns more
            for row in read_table(self.boxes, ["Image Index", "Finding Label", *sides]):
                x, y, w, h = (cell_number(self.boxes, row, side) for side in sides)
                box = Box(_finding(row.cells["Finding Label"]), y, x, h, w)
                boxes.setdefault(row.cells["Image Index"], []).append(box)
        there = set()
        for path in files_ending(self.root, ".png"):
            there.add(path.name)
            entry, split = entries.get(path.name), splits.get(path.name)
            if entry is None or split is None:
                lists = "official lists" if self.official else "lists of recipe.lists"
                yield SourceRecord(
                    path.name, path, rejected=f"not in the {'table of findings' if entry is None else lists}"
                )
                continue
            labels, patient, facts = entry
            yield SourceRecord(
                path.name,
                path,
                patient,
                labels=labels,
                boxes=tuple(boxes.get(path.name, ())),
                split=split,
                attributes={name: facts[name] for name in self.attributes if facts.get(name)},
            )
        for name in entries.keys() - there:
            yield SourceRecord(name, self.root / name, rejected="listed, but missing")

    def _entries(self) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for row in read_table(self.table, COLUMNS):
            name, findings, patient, age, sex, view = (row.cells[column] for column in COLUMNS)
            try:
                labels = _labels(findings)
            except ValueError as error:
                raise table_error(self.table, str(error), row) from error
            if name in entries or not name:
                what = f"a second line for {name}: keep one" if name else "no image name"
                raise table_error(self.table, what, row)
            entries[name] = labels, patient, {"sex": sex, "age": _age(age), "view": view}
        return entries


def _age(text: str) -> str:
    """``058``, or DICOM's ``058Y``, ``013M``, ``021D``; empty if invalid or impossible."""
    age = re.fullmatch(r"([0-9]{1,3})([YMWD]?)", text.upper())
    return "" if not age or (age[2] in ("", "Y") and int(age[1]) > OLDEST) else age[0]


@lru_cache(maxsize=4096)
def _labels(findings: str) -> tuple[float, ...]:
    """1 for each of the findings, joined by ``|``. Raises ValueError for an unknown one."""
    named = {_finding(part) for part in findings.split("|")} - {"No Finding"}
    if unknown := named - set(FINDINGS):
        raise ValueError(f"'{min(unknown)}' is not one of the 14 findings{nearest(min(unknown), FINDINGS)}")
    return tuple(float(finding in named) for finding in FINDINGS)


def _finding(text: str) -> str:
    """Unify spelling: the boxes have Infiltrate; copies of the table differ in case and ``_``."""
    spellings = {finding.lower(): finding for finding in (*FINDINGS, "No Finding")} | {"infiltrate": "Infiltration"}
    plain = text.strip().lower()
    return spellings.get(plain) or spellings.get(plain.replace(" ", "_"), text.strip())
