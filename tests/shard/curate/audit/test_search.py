"""The search against brute force: every value, at every place, whatever borders and neighbours it has."""

import io

import numpy as np
import pytest

from dira_scale.shard.curate.audit import search
from dira_scale.shard.curate.audit.search import LONG, LONGEST, Searcher, SourceValues, Text, forms, texts


def searcher(texts: list[str]) -> Searcher:
    return Searcher(SourceValues.of((Text("planted", text) for text in texts), set()).long)


def reference(data: bytes, forms: set[bytes]) -> list[tuple[int, bytes]]:
    """``bytes.find`` of each form everywhere; at each place the longest, and nothing within what was found before."""
    folded, there = data.lower(), dict[int, bytes]()
    for form in sorted(forms, key=len):
        at = folded.find(form)
        while at >= 0:
            there[at] = form
            at = folded.find(form, at + 1)
    reported, end = [], 0
    for at, form in sorted(there.items()):
        if at >= end:
            reported.append((at, form))
            end = at + len(form)
    return reported


@pytest.mark.parametrize("seed", range(12))
def test_finds_what_bytes_find_finds(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few letters, so that values stand in each other and by chance; many small blocks, so that borders cut them."""
    rng = np.random.default_rng(seed)
    alphabet = list("abAB1" if seed % 2 else "abcdeFGH0123456789. ^é")
    planted = {"".join(rng.choice(alphabet, rng.integers(4, 90))).strip() for _ in range(60)}
    monkeypatch.setattr(search, "BLOCK", int(rng.choice([64, 300, 1000, 2**18])))
    found = searcher(sorted(planted))
    data = bytearray("".join(rng.choice(alphabet, 6000)).encode())
    for text in planted:
        at = int(rng.integers(0, len(data)))
        data[at : at + len(text.encode())] = text.upper().encode() if rng.random() < 0.3 else text.encode()
    data += sorted(planted)[0].encode()  # the end of the file is one, too
    expected = {form for text in planted if len(set(text.lower())) > 1 for form in forms(text, ()) if len(form) >= LONG}
    got = [(f.offset, f.form) for f in found.file(io.BytesIO(bytes(data)))]
    assert got == reference(bytes(data), expected) and len(got) > 20
    assert max(map(len, expected)) <= LONGEST


def test_a_value_at_each_place_of_a_block_border(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 1024)
    uid = "1.2.826.0.1.3680043.8.498.77133019"
    found, noise = searcher([uid, "ACC55018822"]), np.random.default_rng(0).bytes(5000)
    for at in range(960, 1100):
        data = noise[:at] + uid.encode() + noise[at:]
        (hit,) = found.file(io.BytesIO(data))
        assert (hit.offset, hit.form, hit.kind) == (at, uid.encode(), "planted")
        assert hit.before == data[at - search.AROUND : at] and hit.after.startswith(data[at + len(uid) :][:32])


def test_no_value_at_all_is_found_nowhere() -> None:
    assert not list(searcher(["short"]).file(io.BytesIO(b"short" * 100)))


def test_hits_by_chance_by_the_plain_formula() -> None:
    """4,000 values of six letters: each stands in a byte of random data by chance once in (256 / 2)^6 places."""
    rng = np.random.default_rng(5)
    names = (Text("name", "".join(rng.choice(list("abcdefghijkl"), 6))) for _ in range(4000))
    values = SourceValues.of(names, set())
    assert values.expected_by_chance() == pytest.approx(len(values.long) / 128**6, rel=1e-9)


def test_a_name_a_date_and_a_note_in_all_their_forms() -> None:
    assert set(texts(Text("PatientName", "Quill^Osbert Jo=Q", "PN"))) == {"Quill^Osbert Jo=Q", "Quill", "Osbert", "Jo"}
    assert set(texts(Text("StudyDate", "20190417", "DA"))) == {"20190417", "2019-04-17", "17.04.2019"}
    assert {"20190417", "17.04.2019", "20190417123000.5"} <= set(texts(Text("x", "20190417123000.5", "DT")))
    assert list(texts(Text("Note", "first line\r\n second \n", "LT"))) == ["first line", "second"]
    assert forms("MÜLLER", ("iso8859",)) == {"müller".encode(), "mÜller".encode(), b"m\xfcller", b"m\xdcller"}
