"""What the values of a column are, whatever it is called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

LOOKED_AT = 1000
"""Different values that are looked at."""
FEWEST = 5
MOST_OF_THEM = 0.9
WORDS = 3.0
"""Words that values of a free text have on average, at least."""
LONG = 40.0
"""Or characters."""

EMAIL = r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}"
PHONE = r"(\+|00)\d[\d ()./-]{6,18}\d|\(?0\d{1,5}\)?[ /.-]\d[\d ./-]{4,12}\d|\(?\d{3}\)?[ .-]\d{3}[.-]\d{4}"
SSN = r"\d{3}-\d{2}-\d{4}"
UUID = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"


def identifying(values: pl.Series) -> str:
    """What that names people a column of texts or whole numbers holds, as ``e-mail addresses``; empty for nothing."""
    import polars as pl

    known = values.drop_nulls().cast(pl.String)
    texts = known.unique(maintain_order=True).head(LOOKED_AT).str.strip_chars().to_list()
    if len(texts) < FEWEST:
        return ""
    for what, fits in _FITS.items():
        if sum(map(fits, texts)) >= MOST_OF_THEM * len(texts):
            return what
    return ""


def is_uuid(values: pl.Series) -> bool:
    """Whether texts are UUIDs."""
    return bool(values.drop_nulls().head(LOOKED_AT).str.contains(f"^{UUID}$").all())


def is_free_text(values: pl.Series) -> bool:
    """Whether texts are sentences rather than names of something: many, mostly different, of several words."""
    known = values.drop_nulls()
    if len(known) < FEWEST or known.n_unique() < len(known) / 2:
        return False
    words, length = known.str.count_matches(r"\S+").mean(), known.str.len_chars().mean()
    return float(words or 0.0) >= WORDS or (float(length or 0.0) >= LONG and float(words or 0.0) > 1)  # type: ignore[arg-type]


def holds_addresses(values: pl.Series) -> bool:
    """Whether some text has an e-mail address in it."""
    return bool(values.drop_nulls().str.contains(EMAIL).any())


def zero_led(texts: pl.Series) -> bool:
    """Whether whole numbers are written with zeros before them, as codes are: ``02139``."""
    return bool(texts.drop_nulls().str.contains(r"^\s*0\d+\s*$").any())


def _pattern(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text) is not None


def _iban(text: str) -> bool:
    """ISO 13616: two letters, two digits, and a remainder of 1 by 97."""
    text = text.replace(" ", "")
    if not re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", text):
        return False
    return int("".join(str(int(one, 36)) for one in text[4:] + text[:4])) % 97 == 1


def _card(text: str) -> bool:
    """ISO/IEC 7812: 13 to 19 digits whose last one is Luhn's."""
    digits = re.sub(r"[ -]", "", text)
    if not re.fullmatch(r"[2-6]\d{12,18}", digits):
        return False
    doubled = [int(one) * (1 + place % 2) for place, one in enumerate(reversed(digits))]
    return sum(one - 9 * (one > 9) for one in doubled) % 10 == 0


def _network(text: str) -> bool:
    from ipaddress import ip_address

    if "." not in text and ":" not in text:
        return False
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


_FITS: dict[str, Callable[[str], bool]] = {
    "e-mail addresses": _pattern(EMAIL),
    "numbers of a person": _pattern(SSN),
    "numbers of accounts": lambda text: _iban(text) or _card(text),
    "network addresses": _network,
    "phone numbers": _pattern(PHONE),
}
