"""Opens candle files as text: plain, compressed by gzip, or one table in a zip archive; in UTF-8 or UTF-16."""

import gzip
import io
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO, TextIO, cast

from market.refusals import CandlesUnreadable

GZIP, ZIP = b"\x1f\x8b", b"PK"
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# A zip archive may be packed by a method that Python lacks, which zipfile says by NotImplementedError.
DAMAGED = (EOFError, OSError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)


def text_of(raw: BinaryIO) -> TextIO:
    """Open the bytes as text. A container is recognised by its first bytes, and so is an encoding.

    Bytes in another encoding become replacement characters, and the line that contains them is refused.
    """
    buffered = cast(io.BufferedReader, raw)
    try:
        start = buffered.peek(4)[:4]
        if start[:2] == GZIP:
            buffered = io.BufferedReader(gzip.GzipFile(fileobj=raw))
        elif start[:2] == ZIP:
            buffered = io.BufferedReader(_only_table(zipfile.ZipFile(raw)))
        encoding = _encoding(buffered.peek(4)[:4])
    except DAMAGED as damaged:
        raise damaged_file(1, damaged) from damaged
    return io.TextIOWrapper(buffered, encoding=encoding, errors="replace", newline="")


def damaged_file(line: int, damaged: Exception) -> CandlesUnreadable:
    return CandlesUnreadable(line, f"the compressed file is damaged or truncated: {damaged}")


def _only_table(archive: zipfile.ZipFile) -> io.RawIOBase:
    """The one table of an archive: its only .csv, or its only file. HistData puts a report beside the table."""
    files = [name for name in archive.namelist() if not name.endswith("/") and not name.startswith("__MACOSX/")]
    tables = [name for name in files if name.lower().endswith(".csv")] or files
    if len(tables) != 1:
        raise CandlesUnreadable(1, f"the archive holds {_listed(tables)}: unpack it and import one file at a time")
    if archive.getinfo(tables[0]).flag_bits & 1:
        raise CandlesUnreadable(1, f"{tables[0]} is encrypted: unpack it first")
    return cast(io.RawIOBase, archive.open(tables[0]))


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "no file"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)} tables ({', '.join(names[:3])}{more})"


def _encoding(start: bytes) -> str:
    if start[:2] in UTF_16:
        return "utf-16"
    # UTF-16 without its mark: every table begins with ASCII characters, so each second byte is zero.
    if len(start) == 4 and start[1] == start[3] == 0:
        return "utf-16-le"
    if len(start) == 4 and start[0] == start[2] == 0:
        return "utf-16-be"
    return "utf-8-sig"
