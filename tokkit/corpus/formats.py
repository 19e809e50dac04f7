r"""Which format a file has: guessed from its name, decided by its first bytes.

Without ``--format``, text that is records is read as records, and what is no text at all is
refused, with what to do about it. A file is CSV by its name alone, never by its content.

    AA/wiki_00      {"id": "1", "text": …}\n{"id": "2", …       JSON lines
    dump.txt        [\n  {"text": …},\n                         a JSON array
    dump            <mediawiki xml…                             refused: markup
    notes.txt       {curly braces} begin this sentence.         text

To add a format, add a row to ``FORMATS`` in ``corpus_config.py``, and its reader to ``readers.py``.
"""

import codecs
import os
import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from tokkit.corpus.compression import ERRORS, find_codec, named_codec, open_reader
from tokkit.corpus.corpus_config import FORMATS, CorpusConfig
from tokkit.corpus.file_systems import Entry, Files, LocalFiles
from tokkit.corpus.refusals import find_disguise, find_refusal
from tokkit.errors import TokkitError, wrap_os_errors

HEAD_BYTES = 1 << 16
TABLES = tuple(name for name, kind in FORMATS.items() if kind.reader == "table")

_BZIP2_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NAMED = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}
_LFS_POINTER = b"version https://git-lfs.github.com/"
_TABLE_SIGNATURES = {
    b"PAR1\x15": "parquet",
    b"ARROW1\x00\x00": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # a stream
}


_STRING = rb'"(?:[^"\\]|\\.)*+"'
_OBJECT = re.compile(rb"\s*+\{\s*+%b\s*+:" % _STRING, re.DOTALL)
_OPENING = re.compile(rb"\s*+\[")
# Of objects, or of several strings.
_ARRAY = re.compile(
    rb"\s*+\[(?=\s*+(?:\{\s*+[\"}]|%b\s*+,\s*+%b\s*+[,\]]))" % (_STRING, _STRING), re.DOTALL
)
# A string, a number, or an array or object without others in it.
_FLAT = rb'(?:%b|[-+.\w]++|[\[{](?:[^"{}\[\]]++|%b)*+[}\]])' % (_STRING, _STRING)
_ARRAY_FIELD = re.compile(
    rb"\s*+\{(?:\s*+%b\s*+:\s*+%b\s*+,)*+\s*+%b\s*+:\s*+\[(?=\s*+\{)" % (_STRING, _FLAT, _STRING),
    re.DOTALL,
)


@dataclass(frozen=True)
class FileType:
    """What a file is.

    Attributes:
        format: ``text``, ``jsonl``, ``json`` (an array or objects of several lines), ``csv``,
            ``tsv``, ``parquet``, ``arrow`` or ``counts`` (words and their counts).
        compression: see ``open_reader``.
        records_start: the byte after the bracket that opens the array of records of ``json``; 0 if
            the records are in no array.
        looks_like: the unsupported format that it resembles although ``--format`` names another; None for text.
    """

    format: str
    compression: str | None
    records_start: int = 0
    looks_like: str | None = None


def read_head(raw: Any) -> bytes:
    """Return the first bytes of a file, enough to identify it."""
    head: bytes = raw.read(HEAD_BYTES)
    # Nothing is known of the text in a bzip2 block before its end.
    return head + raw.read(_BZIP2_BLOCK) if find_codec(head, None) == "bz2" else head


def find_type(files: Files, config: CorpusConfig, entry: Entry) -> FileType:
    """Return what a file is, after reading its first bytes.

    Raises:
        TokkitError: see ``identify``; or it is no regular file.
    """
    name = files.name(entry.path)
    if not entry.is_file:
        raise TokkitError(f"{name}: not a regular file; pipe its content to -")
    with files.open_head(entry, HEAD_BYTES) as file, wrap_os_errors(name):
        head = read_head(file)
    if head and not entry.bytes and isinstance(files, LocalFiles):  # as in /proc
        raise TokkitError(f"{name}: its size is not known; pipe its content to -")
    file_type = identify(name, entry.path, head, config.format)
    if config.text_column and file_type.format not in ("csv", "tsv"):
        raise TokkitError(
            f"{name}: --text-column needs CSV or TSV, which the file name does not indicate; pass "
            f"--format csv or tsv if it is one"
        )
    return file_type


def identify(name: str, path: str, head: bytes, wanted: str) -> FileType:
    """Return what a file is.

    Args:
        name: its name in errors.
        path: its path, of which only the suffixes count.
        head: from ``read_head``.
        wanted: the option ``--format``.

    Raises:
        TokkitError: if it cannot be read, or does not look like what it is taken for.
    """
    if head.startswith(_LFS_POINTER):
        raise TokkitError(f"{name}: a Git LFS pointer, not the file itself; run git lfs pull")
    suffix, codec_suffix = _split_name(path)
    named = named_codec(codec_suffix)
    # Text may begin like compressed data, but then it has to be called text.
    codec = find_codec(head, named) if named or wanted != "text" else None
    if named and not codec and head:
        raise TokkitError(f"{name}: not {named} data, as its name says; rename or replace the file")
    text = _decompress(head, codec)
    mark = len(_BOM) if text.startswith(_BOM) else 0
    text = text[mark:]
    found = _choose_format(suffix, text) if wanted == "auto" else wanted
    refusal = None if found in TABLES else find_refusal(suffix, text)
    if refusal is None and found == "text" and wanted == "auto":
        refusal = find_disguise(suffix, text, is_cut=len(text) >= HEAD_BYTES - mark)
    if refusal is not None and wanted == "auto":
        otherwise = ", or pass --format text to read it as plain text" * _is_utf8(text)
        raise TokkitError(f"{name}: looks like {refusal.what}; {refusal.remedy}{otherwise}")
    if codec and found in TABLES:
        raise TokkitError(
            f"{name}: {found} within {codec} cannot be read in parts; decompress it first"
        )
    if wanted == "auto" and found in ("csv", "tsv", *TABLES) and _OBJECT.match(text):
        raise TokkitError(f"{name}: looks like JSON, not {found}; pass --format jsonl to read it")
    array = _find_array(text) if found == "json" else None
    return FileType(
        found,
        codec,
        records_start=0 if array is None else mark + array.end(),
        looks_like=refusal and refusal.what,
    )


def describe_head(head: bytes) -> str:
    """Return what a file is that begins with these bytes."""
    found, refusal = _choose_format("", head), find_refusal("", head)
    if found in TABLES:
        return f"{found.capitalize()} data"
    if refusal is not None:
        return refusal.what
    if not _is_utf8(head):
        return "a file of an unknown format"
    if not head:
        return "an empty file"
    return "a JSON file" if head.lstrip().startswith((b"{", b"[")) else "a text file"


def _is_utf8(text: bytes) -> bool:
    """Whether the first bytes of a file are those of text, whose last character may be cut."""
    start = text[:4096]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return b"\0" not in start


def _split_name(name: str) -> tuple[str, str]:
    """Return the last suffix of a name, without that of a compression, and the latter or ""."""
    root, suffix = os.path.splitext(name.lower())  # noqa: PTH122  a URI's name is no path
    if named_codec(suffix) is None:
        return suffix, ""
    return os.path.splitext(root)[1], suffix  # noqa: PTH122  a URI's name is no path


def _decompress(head: bytes, codec: str | None) -> bytes:
    """Return the first bytes of the text; fewer if the data are damaged, which reading reports."""
    if codec is None:
        return head
    text = bytearray(HEAD_BYTES)
    filled = 0
    try:
        reader = open_reader(BytesIO(head), codec)
        while filled < len(text) and (read := reader.readinto(memoryview(text)[filled:])):
            filled += read
    except ERRORS:
        pass
    return bytes(text[:filled])


def _choose_format(suffix: str, text: bytes) -> str:
    """Return the format of a file with this suffix that begins like this."""
    for magic, table in _TABLE_SIGNATURES.items():
        if text.startswith(magic):
            return table
    named = _NAMED.get(suffix, "text")
    if named not in ("text", "json", "jsonl"):
        return named
    if _OBJECT.match(text) is None:
        is_array = _ARRAY.match(text) or (named == "json" and _find_array(text))
        return "json" if is_array else "jsonl" if named == "json" else named
    first_line = text.lstrip().partition(b"\n")[0].rstrip()
    has_lines = named == "jsonl" or _find_array(text) is None
    return "jsonl" if has_lines and not first_line.endswith((b"{", b"[", b",")) else "json"


def _find_array(text: bytes) -> re.Match[bytes] | None:
    """Return what comes before the records of a JSON document, up to the bracket that opens them.

    A line that begins with a second object shows that each line is a record.
    """
    if re.search(rb"\}[ \t\r]*+\n\s*+\{", text) is None:
        return _OPENING.match(text) or _ARRAY_FIELD.match(text)
    return _OPENING.match(text)
