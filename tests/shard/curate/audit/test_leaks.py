"""A source full of identities, sharded by the command, is clean; each leak planted then is found, and only it."""

import io
import json
import shutil
import stat
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from archive import ingest
from PIL import Image, PngImagePlugin

from dira_scale.dataset.manifest import INFO_FILE, MANIFEST_FILE, QUARANTINE_FILE, SCHEMA, ShardedDataset
from dira_scale.shard import main
from dira_scale.shard.curate.audit.harvest import harvest, texts_of
from dira_scale.shard.curate.audit.leaks import find_leaks, is_coincidence
from dira_scale.shard.curate.audit.report import AuditFinding
from dira_scale.shard.curate.audit.search import Match, SourceValues, Text
from dira_scale.shard.curate.audit.texts import own_words, parts_of, tokens

UID = "1.2.826.0.1.3680043.8.498.771"
Plant = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """DICOM and PNG of 12 patients, a table; the dataset of them; the values, harvested once."""
    root = tmp_path_factory.mktemp("audit")
    source = root / "source"
    rows = []
    for n in range(12):
        pixels = (ingest.picture(n).astype(np.uint16) << 4) + n
        name = f"Ward{n % 3}/exam-{7000 + n}-vorgath.dcm"
        private = {"StudyDate": f"2019041{n % 10}", "StudyTime": "082611", "StudyID": f"K{n}Z"}
        ingest.dicom(source / name, pixels, PatientID=f"HOSP-77419{n:02d}", PatientSex="F", ViewPosition="PA",
                     PatientComments="seen by Drumwhistle", **private)  # fmt: skip
        rows.append({"file": name, "patient": f"HOSP-77419{n:02d}", "Nodule": n % 2, "view": "PA"})
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "Scanned by Hubertine Kolb")
    Image.fromarray(ingest.picture(99)).save(source / "scan_of_film.png", pnginfo=text)
    rows.append({"file": "scan_of_film.png", "patient": "HOSP-774199", "Nodule": 0, "view": ""})
    (source / "broken-vorgath.dcm").write_bytes(b"nothing at all")
    rows.append({"file": "broken-vorgath.dcm", "patient": "HOSP-774200", "Nodule": 0, "view": ""})
    table = ingest.csv(root / "labels.csv", rows)
    words = [f"recipe.images={source}", f"recipe.labels={table}", f"out={root / 'ds'}", "recipe.attributes=[view,sex]"]
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "a key for tests only, of some length")
    assert main([*words, "recipe=folder", "recipe.name=films", "recipe.shard_size=5", "workers=1"]) == 0
    monkeypatch.undo()
    dataset = ShardedDataset.open(root / "ds")
    values = SourceValues.of(harvest(str(source), [str(table)], 1), own_words(dataset))
    return SimpleNamespace(source=source, table=table, folder=root / "ds", values=values)


def planted(folder: Path, made: SimpleNamespace) -> list[AuditFinding]:
    return find_leaks(ShardedDataset.open(folder, check_shards=False), made.values, folder.parent, 1).hits


def rewritten(folder: Path, change: Callable[[tarfile.TarInfo, bytes], tuple[tarfile.TarInfo, bytes]]) -> None:
    """One shard written again, each member as ``change`` wants it."""
    shard = sorted(folder.glob("*.tar"))[0]
    with tarfile.open(shard) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, (member, content) in enumerate(members):
            new, body = change(member, content) if number < 2 else (member, content)  # the first sample
            new.size = len(body)
            tar.addfile(new, io.BytesIO(body))


def in_image(content: Callable[[bytes], bytes]) -> Plant:
    return lambda folder: rewritten(
        folder, lambda member, body: (member, content(body) if member.name.endswith(".png") else body)
    )


def in_sidecar(**more: object) -> Plant:
    def change(member: tarfile.TarInfo, body: bytes) -> tuple[tarfile.TarInfo, bytes]:
        return member, json.dumps(json.loads(body) | more).encode() if member.name.endswith(".json") else body

    return lambda folder: rewritten(folder, change)


def in_header(**fields: object) -> Plant:
    def change(member: tarfile.TarInfo, body: bytes) -> tuple[tarfile.TarInfo, bytes]:
        if member.name.endswith(".png"):
            for name, value in fields.items():
                setattr(member, name, value)
        return member, body

    return lambda folder: rewritten(folder, change)


def chunk(kind: bytes, body: bytes) -> Callable[[bytes], bytes]:
    """A PNG with one more chunk behind its header."""
    whole = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return lambda png: png[:33] + whole + png[33:]


def in_manifest(column: str, value: object) -> Plant:
    def plant(folder: Path) -> None:
        table = pq.read_table(folder / MANIFEST_FILE)
        cells = table[column].to_pylist()
        cells[3] = value
        index = table.schema.get_field_index(column)
        table = table.set_column(index, column, pa.array(cells, SCHEMA.field(column).type))
        pq.write_table(table, folder / MANIFEST_FILE, compression="zstd")

    return plant


def in_quarantine(folder: Path) -> None:
    table = pq.read_table(folder / QUARANTINE_FILE).to_pylist()
    table[0]["reason"] += " (exam-7003-vorgath.dcm)"
    pq.write_table(pa.Table.from_pylist(table), folder / QUARANTINE_FILE, compression="zstd")


def in_info(**more: object) -> Plant:
    def plant(folder: Path) -> None:
        info = json.loads((folder / INFO_FILE).read_text())
        (folder / INFO_FILE).write_text(json.dumps(info | more))

    return plant


def recipe_note(folder: Path) -> None:
    info = json.loads((folder / INFO_FILE).read_text())
    info["recipe"]["note"] = "asked for by Alaric"
    (folder / INFO_FILE).write_text(json.dumps(info))


def across_a_block(folder: Path) -> None:
    size = 2**18
    noise = np.random.default_rng(1).bytes(2 * size)
    (folder / "train.beton").write_bytes(noise[: size - 11] + UID.encode() + noise[size - 11 :])


def test_what_the_command_made_is_clean(made: SimpleNamespace) -> None:
    assert len(made.values.long) > 100 and len(made.values.short) >= 12
    assert planted(made.folder, made) == []
    searched = made.values.long | made.values.short
    expected = ["quillfeather", "osbertina", "1932-04-17", "17.04.1932", "hosp-7741903", "saint vorgath infirmary", UID,
                "exam-7003-vorgath", "hubertine kolb", "082611", "k7z", "ward1"]  # fmt: skip
    for form in expected:
        assert any(form.encode() in entry for entry in searched), form


LEAKS: dict[str, tuple[Plant, str, str, str]] = {  # how, and then the file, the place and the value of the only hit
    "a short ID in a chunk": (in_image(chunk(b"tEXt", b"Comment\0case K7Z.")), "tar", "tEXt chunk", "tEXt chunk"),
    "bytes behind the image": (
        in_image(lambda png: png + b"\0\0K7Z"), "tar", "bytes after the PNG", "bytes after the PNG"),
    "a date in a sidecar": (in_sidecar(taken="2019-04-13"), "tar", "JSON.taken", "2019-04-13"),
    "a number in a sidecar": (in_sidecar(number=20190413), "tar", "byte", "20190413"),
    "a time of six digits": (in_sidecar(at="08:26 (082611)"), "tar", "JSON.at", "082611"),
    "a PatientID as a member's name": (in_header(name="HOSP-7741905.png"), "tar", "tar name", "hosp-7741905"),
    "a file's name as its owner": (in_header(uname="exam-7003-vorgath"), "tar", "tar owner", "exam-7003-vorgath"),
    "when it was written": (in_header(mtime=1555151171), "tar", "tar header", "1555151171"),
    "a UID across a block's border": (across_a_block, "train.beton", f"byte {2**18 - 11}", UID),
    "a short ID as an attribute": (in_manifest("attributes", [("view", "K7Z")]), MANIFEST_FILE, "column attributes",
                                   "k7z"),
    "an accession number in dataset.json": (in_info(comment="ACC55018822"), INFO_FILE, "JSON.comment", "acc55018822"),
    "a name added to the recipe": (recipe_note, INFO_FILE, "JSON.recipe.note", "alaric"),
    "a file's name in a reason": (in_quarantine, QUARANTINE_FILE, "column reason", "exam-7003-vorgath.dcm"),
}  # fmt: skip


@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found_and_nothing_else(leak: str, made: SimpleNamespace, tmp_path: Path) -> None:
    plant, file, position, value = LEAKS[leak]
    folder = Path(shutil.copytree(made.folder, tmp_path / "ds"))
    plant(folder)
    hits = planted(folder, made)
    assert {hit.value for hit in hits} == {value} and len(hits) == 1, hits
    assert hits[0].file.endswith(file) and hits[0].position.startswith(position)


def test_what_other_formats_say() -> None:
    """The texts of formats that neither this source nor this dataset holds."""
    file = io.BytesIO()
    Image.new("L", (40, 40)).save(file, "JPEG", comment=b"Hubertine Kolb", exif=_exif())
    assert {("COM segment", "Hubertine Kolb"), ("APP1 segment", "Vorgath")} <= {
        each[:2] for each in texts_of(file.getvalue())
    }
    assert {what for what, _ in parts_of(file.getvalue())} == {"COM segment", "APP1 segment"}
    header = bytearray(352)
    header[:4], header[148:160] = (348).to_bytes(4, "little"), b"Quillfeather"
    header[108:112], extension = struct.pack("<f", 384), struct.pack("<ii", 32, 6) + b"K7Z of Drumwhistle".ljust(24)
    reported = {each.text.strip() for each in texts_of(bytes(header) + extension + b"of voxels")}
    assert reported == {"Quillfeather", "K7Z of Drumwhistle"}
    printed = dict(
        each[:2]
        for each in texts_of(b"ObjectType = Image\nNDims = 3\nPatientName = Doe\nElementDataFile = doe.raw\n\0\1")
    )
    assert printed == {"MetaImage PatientName": "Doe", "MetaImage ElementDataFile": "doe.raw"}
    printed = dict(
        each[:2]
        for each in texts_of(b"NRRD0004\ntype: short\ncontent: of Doe\nPatientID:=HOSP-7\nsizes: 3 4 5\n\n\0\1")
    )
    assert printed == {"NRRD content": "of Doe", "NRRD PatientID": "HOSP-7"}


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x013B] = "Vorgath"  # Artist
    return exif


@pytest.mark.parametrize(
    ("before", "form", "after", "piece"),
    [
        (b'"15454da9f2b', b"082611", b'd4bbdf4c"', False),  # 25 hex digits: no hash of ours
        (b'"15454da9f2b', b"082611", b'd4bbdf4"', True),  # 24: a key
        (b"0.", b"140625", b", ", True),  # of a spacing
        (b"1.2.840.", b"140625", b".7", False),  # of a UID
        (b"x1", b"140625", b"9y", True),  # within a longer number
        (b"2", b"20190417", b"1230", False),  # eight digits are no chance
        (b"Pneumo", b"thorax", b'"', True),  # of a label
        (b"my", b"thorax", b'"', False),
    ],
)
def test_pieces_of_what_is_ours(before: bytes, form: bytes, after: bytes, piece: bool) -> None:
    assert is_coincidence(Match(0, form, "", before, after), {b"pneumothorax"}) == piece


def test_words_of_a_text() -> None:
    assert {"p7", "p7-scan", "k7z"} <= set(tokens("The P7-scan, (K7Z)."))
    assert not {"1", "0", "5"} & set(tokens("version 1.0 at 0.5"))


def test_the_command_tells_masked_values_and_keeps_the_full_ones_for_their_owner(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"source={made.source}", f"tables={made.table}"]
    assert main(["audit", f"path={made.folder}", *words, "workers=2"]) == 0
    printed = capsys.readouterr().out
    assert (
        "identifying values (at most about 1000 of a file): none" in printed
        and "patients in two splits: none" in printed
    )
    assert printed.splitlines()[-1] == "the audit found nothing that must not be there"
    folder = Path(shutil.copytree(made.folder, tmp_path / "ds"))
    in_sidecar(taken="Quillfeather", whose="Quillfeather")(folder)
    in_header(name="HOSP-7741905.png")(folder)
    info = json.loads((folder / INFO_FILE).read_text())
    for shard in info["shards"]:
        info["shards"][shard] = (folder / shard).stat().st_size
    (folder / INFO_FILE).write_text(json.dumps(info))
    assert main(["audit", f"path={folder}", *words, "near_duplicates=false", "workers=1"]) == 1
    printed = capsys.readouterr().out
    assert "the audit FAILED" in printed and "qu… (12)" in printed
    assert "uillfeather" not in printed.lower() and "7741905" not in printed
    kept = tmp_path / "ds.audit.csv"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "quillfeather" in kept.read_text() and "hosp-7741905" in kept.read_text()


def test_values_of_the_recipes_own_words_are_left_and_counted() -> None:
    given = [Text("folder name", "Films"), Text("StudyTime", "000000", "TM"), Text("PatientID", "X00000")]
    values = SourceValues.of(given, {"films", "pneumothorax", "pa"})
    assert values.not_searched == {("StudyTime", "000000"), ("folder name", "films")} and set(values.long) == {
        b"x00000"
    }


def test_every_word_of_a_reason_for_a_rejection_is_ours(made: SimpleNamespace, tmp_path: Path) -> None:
    """Else it would be a leak wherever a folder of the source has its name. What was added to a recipe is not ours."""
    own = own_words(ShardedDataset.open(made.folder))
    reasons = pq.read_table(made.folder / QUARANTINE_FILE)["reason"].to_pylist()
    assert reasons and {token for reason in reasons for token in tokens(reason)} <= own
    assert {"orientation", "tissue", "lettering", "gantry", "narrower", "sequence", "listed"} <= own
    folder = Path(shutil.copytree(made.folder, tmp_path / "ds"))
    recipe_note(folder)
    assert "alaric" not in own_words(ShardedDataset.open(folder))


def test_a_number_of_slices_that_we_filled_in_is_ours(made: SimpleNamespace, tmp_path: Path) -> None:
    """37 of them, and a file 37.dcm; what is no such number is searched for there as anywhere."""
    for number, own in (("37", True), ("7741905", False)):
        folder = Path(shutil.copytree(made.folder, tmp_path / number))
        in_manifest("attributes", [("filled_slices", number)])(folder)
        assert (number in own_words(ShardedDataset.open(folder, check_shards=False))) is own
