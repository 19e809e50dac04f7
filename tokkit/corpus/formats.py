r"""Which format a file has: guessed from its name, decided by its first bytes.

Without ``--format``, text that is records is read as records, and what is no text at all is
refused, with what to do about it. Text is never taken for a table of CSV: only its name says that.

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
from tokkit.corpus.disguises import find_disguise
from tokkit.corpus.file_systems import Entry, Files, LocalFiles
from tokkit.errors import TokkitError, wrap_os_errors

HEAD_BYTES = 1 << 16
TABLES = tuple(name for name, kind in FORMATS.items() if kind.reader == "table")

_BZIP2_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_NAMED = {suffix: name for name, kind in FORMATS.items() for suffix in kind.suffixes}
_PROSE = (".md", ".markdown", ".mdx", ".rst")  # may begin with tags

_UNPACK = "unpack it, and name the files in it"
_TO_TEXT = "convert it to plain text first"
_EXTRACT = "extract its text first, as WikiExtractor or trafilatura do"
_TO_RECORDS = "convert it to JSON lines or Parquet first"
_TO_UTF8 = "convert it first, as with iconv -f UTF-16 -t UTF-8"
_DECOMPRESS = "decompress it first"
_LEAVE_OUT = "name the files of text, as in FOLDER/*.txt"

_REFUSED_SUFFIXES = {
    f".{suffix}": (what, remedy)
    for suffixes, what, remedy in (
        ("tar tgz tbz2 txz tzst", "a tar archive", _UNPACK),
        ("zip 7z rar cpio", "an archive", _UNPACK),
        ("xml html htm xhtml sgml sgm", "markup", _EXTRACT),
        ("tex latex", "LaTeX", _TO_TEXT),
        ("po pot", "a catalog of translations", _TO_TEXT),
        ("bib ris enw nbib", "a bibliography", _TO_TEXT),
        ("nt nq ttl", "linked data", _TO_TEXT),
        ("warc wet wat", "a web archive", _EXTRACT),
        ("pdf rtf docx odt epub", "a formatted document", _TO_TEXT),
        ("srt vtt ass sub sbv lrc", "subtitles", _TO_TEXT),
        ("mbox eml mht", "mail", _TO_TEXT),
        ("conll conllu iob vrt", "annotated tokens, as in a treebank", _TO_TEXT),
        ("cha textgrid", "an annotated transcript", _TO_TEXT),
        ("ipynb", "a notebook", "convert it to Markdown first"),
        ("arff", "a table of ARFF", _TO_RECORDS),
        ("ics vcf", "a calendar or contacts", _TO_RECORDS),
        ("vec", "word vectors", _LEAVE_OUT),
        ("fasta faa fna fastq fq", "sequences with headers", _TO_RECORDS),
        ("b64 base64 uu", "encoded data", "decode it first"),
        ("br sz snappy lz z", "compressed data", _DECOMPRESS),
        ("xlsx sqlite npy npz pkl pickle h5 hdf5 orc avro tfrecord", "binary data", _TO_RECORDS),
        ("png jpg jpeg gif", "an image", _LEAVE_OUT),
    )
    for suffix in suffixes.split()
}
# Files that are known by their content alone.
_DISGUISES = {
    **{suffix[1:]: refused for suffix, refused in _REFUSED_SUFFIXES.items()},
    "pickle": ("a Python pickle, which is never loaded", _TO_RECORDS),
    "sql": ("a dump of a database", _TO_RECORDS),
    "js": ("JavaScript of a Twitter archive", "remove what is before its first bracket"),
    "yaml": ("records of YAML", "convert them to JSON lines first"),
    "csv": ("a table", "pass --format csv to read it"),
    "tsv": ("a table", "pass --format tsv to read it"),
}
# First bytes that are no text.
_SIGNATURES = {
    b'<doc id="': ("markup of WikiExtractor", "run it again with --json"),
    b"!<arch>\n": ("an archive", _UNPACK),
    b"\xff\xfe\0\0": ("UTF-32 text", _TO_UTF8.replace("16", "32")),
    b"\xff\xfe": ("UTF-16 text", _TO_UTF8),
    b"\xfe\xff": ("UTF-16 text", _TO_UTF8),
    b"PK\x03\x04": ("a zip archive, as .docx, .xlsx, .epub and .npz are, too", _UNPACK),
    b"PK\x05\x06": ("an empty zip archive", _LEAVE_OUT),
    b"7z\xbc\xaf\x27\x1c": ("a 7z archive", _UNPACK),
    b"Rar!\x1a\x07": ("a rar archive", _UNPACK),
    b"WARC/": ("a web archive (WARC)", _EXTRACT),
    b"%PDF-": ("a PDF file", _TO_TEXT),
    b"%!PS": ("a PostScript file", _TO_TEXT),
    b"{\\rtf": ("an RTF file", _TO_TEXT),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": ("an old Microsoft Office file", _TO_TEXT),
    b"SQLite format 3\x00": ("an SQLite database", _TO_RECORDS),
    b"\x93NUMPY": ("a NumPy array", _TO_RECORDS),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file", _TO_RECORDS),
    b"ORC\x0a": ("an ORC file", _TO_RECORDS),
    b"Obj\x01": ("an Avro file", _TO_RECORDS),
    b"\x89PNG\r\n": ("an image", _LEAVE_OUT),
    b"\xff\xd8\xff": ("an image", _LEAVE_OUT),
    b"GIF87a": ("an image", _LEAVE_OUT),
    b"GIF89a": ("an image", _LEAVE_OUT),
    b"\x7fELF": ("a program", _LEAVE_OUT),
    **{
        b"\x80%c" % version: ("a Python pickle, which is never loaded", _TO_RECORDS)
        for version in range(2, 6)
    },
}
_LFS_POINTER = b"version https://git-lfs.github.com/"
_CONTROLS = bytes(range(9))
_TAR = slice(257, 262), b"ustar"
_TABLE_SIGNATURES = {
    b"PAR1\x15": "parquet",
    b"ARROW1\x00\x00": "arrow",
    b"\xff\xff\xff\xff": "arrow",  # a stream
}
# Elements with attributes, or others in them, begin a document of markup; <unk>, <s> or <3 may begin
# one of text.
_MARKUP = re.compile(
    rb"""(?:<!--(?>.*?-->)\s*+)*+<(?:\?xml\b|!doctype\b
    |(?:html|head|body|mediawiki|corpus|div|p|h1|ul|table|article)\b[^<>]*>
    |[a-z][\w:.-]*(?:\s+[\w:.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'))+\s*/?>
    |[a-z][\w:.-]*>(?:[\r\n]\s*)?<([a-z][\w:.-]*)>.*</\1>)""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_PYTHON_DICT = re.compile(rb"(?:\[\s*)?\{'\w+': ")
_HUB_ROWS = re.compile(rb'\{\s*"features"\s*:\s*\[\s*\{\s*"feature_idx"')

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
    refused = None if found in TABLES else _find_refusal(suffix, text)
    is_plain = refused is None and found == "text" and suffix not in _PROSE
    if is_plain and wanted == "auto":
        disguise = find_disguise(text, is_cut=len(text) >= HEAD_BYTES - mark)
        refused = None if disguise is None else _DISGUISES[disguise]
    if refused is not None and wanted == "auto":
        otherwise = ", or pass --format text to read it as plain text" * _is_utf8(text)
        raise TokkitError(f"{name}: looks like {refused[0]}; {refused[1]}{otherwise}")
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
        looks_like=None if refused is None else refused[0],
    )


def describe_head(head: bytes) -> str | None:
    """Return what a file is, if its first bytes are those of something that is no text."""
    found = _choose_format("", head)
    if found in TABLES:
        return f"{found.capitalize()} data"
    refused = _find_refusal("", head)
    return None if refused is None else refused[0]


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


def _find_refusal(suffix: str, text: bytes) -> tuple[str, str] | None:
    """Return what a file is that cannot be read, and the remedy; None for text."""
    for magic, refused in _SIGNATURES.items():
        if text.startswith(magic):
            return refused
    if (codec := find_codec(text, None)) is not None:
        return f"{codec} data", _DECOMPRESS
    where, magic = _TAR
    if text[where] == magic:
        return _REFUSED_SUFFIXES[".tar"]
    start = text[:4096]
    zeros = start[::2].count(0), start[1::2].count(0)
    if len(start) > 200 and max(zeros) > 9 * len(start) // 20 > min(zeros):
        return "UTF-16 text", _TO_UTF8
    num_controls = len(start) - len(start.translate(None, _CONTROLS))
    if start[:16].count(0) > 3 or num_controls > max(16, len(start) // 10):
        return "binary data, or text that is not UTF-8", _TO_TEXT
    if suffix not in _PROSE and _MARKUP.match(text.lstrip()):
        return _REFUSED_SUFFIXES[".xml"]
    if _PYTHON_DICT.match(text):
        return "Python dictionaries, not JSON", _TO_RECORDS
    if _HUB_ROWS.match(text):
        return "rows of the Hub's server", "pipe them in, as in jq -c '.rows[].row'"
    return _REFUSED_SUFFIXES.get(suffix)
