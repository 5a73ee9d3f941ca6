"""De-identification: keyed hashes of names and a few coarse attributes; nothing else of a header leaves the hospital.

Hashes are HMAC-SHA-256 with a key that stays with the images. Without the key, hashes cannot be brute-forced with
patient numbers; with it, a patient has the same hash in every dataset made there.
"""

import contextlib
import hmac
import os
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from dira_scale.base.errors import UserError
from dira_scale.base.storage.text import brief

ENVIRONMENT = "DIRA_SCALE_HASH_KEY"
PUBLIC_KEY = b"dira_scale: public images"  # for public data, so that everyone's shards are equal
VIEWS = {"PA", "AP", "LL", "RL", "LATERAL", "LAO", "RAO", "CC", "MLO"}
MANUFACTURERS = ("agfa", "canon", "carestream", "fujifilm", "ge", "konica", "philips", "samsung", "siemens", "toshiba")
IRRELEVANT = "irrelevant"  # a candidate that is neither a lesion's nor a false positive
SEXES = {"f": "F", "female": "F", "m": "M", "male": "M", "o": "O", "other": "O"}


class Hasher:
    """Keyed hashes. ``kind`` separates a patient and a study of one name, ``archive`` equal names of two archives."""

    def __init__(self, key: bytes, archive: str | None = None):
        self._key, self._archive = key, f"{archive}\0" if archive else ""
        self.key_id = hmac.digest(key, b"key\0id", "sha256").hex()[:8]

    def __call__(self, kind: str, value: str) -> str:
        """24 hex digits (96 bits: no collisions expected among 10^9 names); file names may contain any bytes."""
        name = f"{self._archive}{kind}\0{value}"
        return hmac.digest(self._key, name.encode(errors="surrogateescape"), "sha256").hex()[:24]

    def fraction(self, kind: str, value: str) -> float:
        """A number in [0, 1), uniformly distributed, determined by ``value`` and the key."""
        return int(self(kind, value)[:13], 16) / 16**13


def load_key(secret: bool, key_file: str | None = None) -> tuple[bytes, str]:
    """The key and its origin: the public key unless ``secret``, else $DIRA_SCALE_HASH_KEY, else ``key_file``.

    ``key_file`` defaults to ~/.config/dira_scale/hash_key (or below $XDG_CONFIG_HOME). If absent it is made, readable
    by its owner only. Keep it, but never beside the shards: another key gives other hashes and another split.

    Raises UserError if the key in the environment or the file is shorter than 16 characters, or no file can be made.
    """
    if not secret:
        return PUBLIC_KEY, "the recipe (public images)"
    if ENVIRONMENT in os.environ:
        return _long_enough(os.environ[ENVIRONMENT].encode(), f"${ENVIRONMENT}")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    path = Path(key_file) if key_file else config / "dira_scale" / "hash_key"
    try:
        if not path.exists():
            _make_key(path)
        return _long_enough(path.read_bytes().strip(), str(path))
    except OSError as error:
        raise UserError(
            f"the key that hashes names cannot be kept in {path} ({error.strerror}): name a file with key_file=…, or "
            f"set ${ENVIRONMENT}"
        ) from error


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileExistsError):  # if another process has just made it, use that one
        os.link(new, path)  # complete from the first moment
    new.unlink()


def _long_enough(key: bytes, where: str) -> tuple[bytes, str]:
    if len(key) < 16:
        raise UserError(f"the hash key in {where} has {len(key)} characters: use at least 16 random ones")
    return key, where


def check_attributes(names: Sequence[str]) -> None:
    """Raises UserError for an attribute without a de-identification rule."""
    if unknown := sorted(set(names) - ATTRIBUTES.keys()):
        raise UserError(f"recipe.attributes: '{unknown[0]}' cannot be kept; use {', '.join(ATTRIBUTES)}")


def coarse(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes reduced to classes; values that fit no class are dropped."""
    kept = {name: ATTRIBUTES[name](value.strip()) for name, value in attributes.items()}
    return {name: value for name, value in sorted(kept.items()) if value}


def check_lesions(cells: Mapping[str, str], names: Sequence[str], where: str) -> None:
    """Raises UserError, with ``where`` it is, for a lesion that would be dropped: its hit would be a false positive."""
    expected = {"lesion": f"up to five numbers below 1,000, as '2 13', {IRRELEVANT}, or nothing",
                "lesions": "how many lesions the scan has, a number below 1,000"}  # fmt: skip
    for name in expected.keys() & names:
        if (cell := cells.get(name, "").strip()) and not ATTRIBUTES[name](cell):
            raise UserError(f"{where}, {name}: " + brief(f"'{cell}' is not {expected[name]}"))


def _age(value: str) -> str | None:
    """Whole years, capped at 90; also reads DICOM's 045Y, 018M and so on."""
    match = re.fullmatch(r"(\d+)(?:\.\d*)?([YMWD]?)", value)
    if not match:
        return None
    years = int(match[1]) / {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return str(min(int(years), 90))


def _lesion(value: str) -> str | None:
    """Numbers of up to five of a scan's lesions, which pandas may write as 1.0, or that it is irrelevant."""
    value = re.sub(r"\.0+\b", "", value)
    return value if value == IRRELEVANT or re.fullmatch(r"\d{1,3}( \d{1,3}){0,4}", value) else None


ATTRIBUTES: dict[str, Callable[[str], str | None]] = {
    "sex": lambda value: SEXES.get(value.lower()),
    "age": _age,
    "view": lambda value: value.upper() if value.upper() in VIEWS else "OTHER",
    "manufacturer": lambda value: next((m for m in MANUFACTURERS if re.search(rf"\b{m}\b", value.lower())), "other"),
    "lesion": _lesion,
    "lesions": lambda value: count if (count := _lesion(value)) and count.isdecimal() else None,
}
