"""Bytes → UTF-8 text, its encoding declared or found out."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from typing import TYPE_CHECKING

from specml.errors import DataCheckFailed, NotEnoughData

if TYPE_CHECKING:
    from pathlib import Path

    from specml.kinds import Tell

GZIP = b"\x1f\x8b"
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; those of UTF-32 before those of UTF-16, which they begin with."""
UNUSED = bytes((0x81, 0x8D, 0x8F, 0x90, 0x9D))
"""Bytes that mean nothing in windows-1252."""


def unpacked(content: bytes | Path, where: str, limit: int | None = None) -> bytes:
    """The bytes of a file or of what was fetched; gzip, which its first two bytes tell, unpacked.

    Raises:
        DataCheckFailed: there is no such file, its gzip is truncated or damaged, or unpacked it has more bytes than
            ``limit``.
        NotEnoughData: there are no bytes.
    """
    try:
        raw = content if isinstance(content, bytes) else content.read_bytes()
        if raw.startswith(GZIP):
            with gzip.open(io.BytesIO(raw)) as packed:
                raw = packed.read(-1 if limit is None else limit + 1)
        if limit is not None and len(raw) > limit:
            raise DataCheckFailed(f"unpacks to more than {limit:,} bytes.", hint="Raise max_bytes.", where=where)
    except FileNotFoundError:
        raise DataCheckFailed("there is no such file.", where=where) from None
    except IsADirectoryError:
        raise DataCheckFailed("is a folder, not a file.", where=where) from None
    except EOFError:
        hint = "Fetch it again: it was cut off."
        raise DataCheckFailed(
            "is a truncated gzip file: it ends before its last block.", where=where, hint=hint
        ) from None
    except (gzip.BadGzipFile, zlib.error):
        raise DataCheckFailed(
            "is a damaged gzip file: what it holds is not what its checksum says.", where=where
        ) from None
    if not raw.strip():
        raise NotEnoughData("is empty.", where=where)
    return raw


def utf8(raw: bytes, encoding: str | None, where: str, tell: Tell) -> bytes:
    r"""``raw`` as UTF-8, without a byte order mark and with ``\n`` where only ``\r`` ends lines.

    Without ``encoding``, a byte order mark decides; then text that is UTF-8 is taken for that, then text with a zero
    in every second byte for UTF-16, and text in which no byte beyond ASCII belongs to a UTF-8 character for latin-1,
    or windows-1252 where it has that one's extra signs. Anything else is broken UTF-8, and refused.

    Raises:
        DataCheckFailed: it is not in the encoding; the first line at fault and the number of bytes are told.
    """
    found = encoding or _inferred(raw)
    if encoding is None:
        tell("encoding", found)
    name = codecs.lookup(found).name
    if name == "utf-8" and raw.isascii():
        return _lines(raw)
    try:
        text = raw.decode(found)
    except UnicodeDecodeError as error:
        raise _undecodable(raw, found, error, where, declared=encoding is not None) from None
    return _lines(
        raw if name == "utf-8" and not raw.startswith(codecs.BOM_UTF8) else text.removeprefix("\ufeff").encode()
    )


def _lines(raw: bytes) -> bytes:
    return raw if b"\n" in raw else raw.replace(b"\r", b"\n")


def _inferred(raw: bytes) -> str:
    for mark, name in MARKS:
        if raw.startswith(mark):
            return name
    if _is(raw, "utf-8") and b"\0" not in raw[:4096]:
        return "utf-8"
    head = raw[:4096]
    for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        if len(head) % 2 == 0 and zeros.count(0) > 0.7 * len(zeros) and _is(raw, name):
            return name
    beyond = {byte for byte in raw if byte > 0x7F} if len(raw) < 1 << 16 else set(raw) - set(range(0x80))
    if not beyond or _utf8_characters(raw):
        return "utf-8"
    if all(byte >= 0xA0 for byte in beyond):
        return "latin-1"
    return "utf-8" if beyond & set(UNUSED) else "windows-1252"


def _is(raw: bytes, encoding: str) -> bool:
    try:
        raw.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _utf8_characters(raw: bytes) -> int:
    """How many characters beyond ASCII are well-formed UTF-8: then the rest is damage, not another encoding."""
    return sum(1 for one in raw.decode("utf-8", errors="ignore") if one > "\x7f")


def _undecodable(
    raw: bytes, encoding: str, error: UnicodeDecodeError, where: str, *, declared: bool
) -> DataCheckFailed:
    line = raw[: error.start].decode(encoding, errors="replace").count("\n") + 1
    given = raw.decode(encoding, errors="ignore").count("\ufffd")
    bad = raw.decode(encoding, errors="replace").count("\ufffd") - given
    what = f"{bad} bytes can't be read as {encoding}, the first in line {line}."
    hint = "Declare another encoding." if declared else "Mend the file, or declare its encoding: latin-1, say."
    return DataCheckFailed(what, hint=hint, where=where)
