"""Hashes and attributes: what may leave."""

import hashlib
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dira_scale.archive.deidentify import PUBLIC_KEY, Hasher, coarse, load_key
from dira_scale.base.errors import UserError


def test_hash_is_hmac_sha256() -> None:
    expected = hmac.new(b"a key of some length", b"patient\x00Doe^John", hashlib.sha256).hexdigest()[:24]
    hasher = Hasher(b"a key of some length")
    assert hasher("patient", "Doe^John") == expected
    assert hasher("study", "Doe^John") != expected
    assert hasher("patient", "M\udcfcller") != expected  # a name of bytes that are no UTF-8
    assert Hasher(b"another key of some length")("patient", "Doe^John") != expected


def test_environment_goes_first_but_for_public_images_and_a_short_key_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_key(secret=True) == (b"a key for tests only, of some length", "$DIRA_SCALE_HASH_KEY")
    assert load_key(secret=False)[0] == PUBLIC_KEY  # everybody's shards of public images are equal
    monkeypatch.setenv("DIRA_SCALE_HASH_KEY", "short")
    with pytest.raises(UserError, match="DIRA_SCALE_HASH_KEY has 5 characters"):
        load_key(secret=True)


def test_a_home_that_cannot_be_written_to_is_one_line_with_both_ways_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").write_text("a file, no folder")
    monkeypatch.delenv("DIRA_SCALE_HASH_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    with pytest.raises(
        UserError, match=r"cannot be kept in .*hash_key \(Not a directory\).*key_file=….*\$DIRA_SCALE_HASH"
    ):
        load_key(secret=True)


@pytest.mark.parametrize(
    "name, value, kept",
    [
        ("age", "57", "57"), ("age", "057Y", "57"), ("age", "96", "90"), ("age", "102Y", "90"), ("age", "030M", "2"),
        ("age", "born 1932", None),
        ("sex", "Female", "F"), ("sex", "m", "M"), ("sex", "Doe^John", None), ("view", "ap", "AP"),
        ("view", "as Dr Smith asked", "OTHER"), ("manufacturer", "GE Healthcare of Springfield", "ge"),
        ("manufacturer", "Springfield General Hospital", "other"),
        ("lesion", "2 13", "2 13"), ("lesion", "irrelevant", "irrelevant"), ("lesion", "of Doe^John", None),
        ("lesion", "1.0", "1"), ("lesion", "2.00 13.0", "2 13"), ("lesion", "1.05", None),
        ("lesion", "1 2 3 4 5 6", None), ("lesions", "0", "0"), ("lesions", "2.0", "2"),
        ("lesions", "19320417", None), ("lesions", "irrelevant", None),
    ],
)  # fmt: skip
def test_attributes_are_classes(name: str, value: str, kept: str | None) -> None:
    assert coarse({name: value}) == ({name: kept} if kept else {})


def test_patient_1_of_one_archive_is_not_patient_1_of_another() -> None:
    own, one, other = (Hasher(b"a key of some length", archive) for archive in (None, "montgomery", "shenzhen"))
    assert len({hasher("patient", "1") for hasher in (own, one, other)}) == 3
    assert own.key_id == one.key_id == other.key_id  # it tells which key was used, not for what


def test_a_key_that_many_ask_for_at_once_is_one_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIRA_SCALE_HASH_KEY", raising=False)
    with ThreadPoolExecutor(16) as pool:
        keys = set(pool.map(lambda _: load_key(True, str(tmp_path / "new" / "key"))[0], range(64)))
    assert len(keys) == 1 and len(keys.pop()) == 64
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["key"]
    assert (tmp_path / "new" / "key").stat().st_mode & 0o777 == 0o600
