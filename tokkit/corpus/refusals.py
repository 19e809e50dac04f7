r"""What a file is that is not read: known by its suffix, its first bytes, or the lines of its text.

    dump            <mediawiki xml…                             markup
    1               1  The  the  DET …                          annotated tokens
    00:00:01 --> …  2  cat  cat  NOUN …

Each rule for text asks for what prose, poems, lists, logs and source code never have: a signature, or
the same structure in every one of the first lines. So no text is refused for one line that resembles
data.

In folders, the files of tokenizers and those that accompany data are left out.

To refuse another kind, add a row to ``_KINDS``, and for text to ``_BEGINNINGS``.
"""

import csv
import fnmatch
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import NamedTuple

from tokkit.corpus.compression import find_codec

_UNPACK = "unpack it, and name the files in it"
_TO_TEXT = "convert it to plain text first"
_EXTRACT = "extract its text first, as WikiExtractor or trafilatura do"
_TO_RECORDS = "convert it to JSON lines or Parquet first"
_TO_UTF8 = "convert it first, as with iconv -f UTF-16 -t UTF-8"
_DECOMPRESS = "decompress it first"
_LEAVE_OUT = "name the files of text, as in FOLDER/*.txt"


class Refusal(NamedTuple):
    """What a file is, and what to do about it."""

    what: str
    remedy: str


# What it is, the remedy, the suffixes of such files, and the bytes that they begin with.
_KINDS: tuple[tuple[str, str, str, tuple[bytes, ...]], ...] = (
    ("a tar archive", _UNPACK, "tar tgz tbz2 txz tzst", ()),
    ("an archive", _UNPACK, "zip 7z rar cpio", (b"!<arch>\n",)),
    (
        "a zip archive, as .docx, .xlsx, .epub and .npz are, too",
        *(_UNPACK, "", (b"PK\x03\x04",)),
    ),
    ("an empty zip archive", _LEAVE_OUT, "", (b"PK\x05\x06",)),
    ("a 7z archive", _UNPACK, "", (b"7z\xbc\xaf\x27\x1c",)),
    ("a rar archive", _UNPACK, "", (b"Rar!\x1a\x07",)),
    ("a web archive", _EXTRACT, "warc wet wat", ()),
    ("a web archive (WARC)", _EXTRACT, "", (b"WARC/",)),
    ("markup", _EXTRACT, "xml html htm xhtml sgml sgm", ()),
    ("markup of WikiExtractor", "run it again with --json", "", (b'<doc id="',)),
    ("UTF-32 text", _TO_UTF8.replace("16", "32"), "", (b"\xff\xfe\0\0",)),
    ("UTF-16 text", _TO_UTF8, "", (b"\xff\xfe", b"\xfe\xff")),
    ("LaTeX", _TO_TEXT, "tex latex", ()),
    ("a catalog of translations", _TO_TEXT, "po pot", ()),
    ("a bibliography", _TO_TEXT, "bib ris enw nbib", ()),
    ("linked data", _TO_TEXT, "nt nq ttl", ()),
    ("a formatted document", _TO_TEXT, "pdf rtf docx odt epub", ()),
    ("a PDF file", _TO_TEXT, "", (b"%PDF-",)),
    ("a PostScript file", _TO_TEXT, "", (b"%!PS",)),
    ("an RTF file", _TO_TEXT, "", (b"{\\rtf",)),
    ("an old Microsoft Office file", _TO_TEXT, "", (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",)),
    ("subtitles", _TO_TEXT, "srt vtt ass sub sbv lrc", ()),
    ("mail", _TO_TEXT, "mbox eml mht", ()),
    ("annotated tokens, as in a treebank", _TO_TEXT, "conll conllu iob vrt", ()),
    ("an annotated transcript", _TO_TEXT, "cha textgrid", ()),
    ("a notebook", "convert it to Markdown first", "ipynb", ()),
    ("a table of ARFF", _TO_RECORDS, "arff", ()),
    ("a calendar or contacts", _TO_RECORDS, "ics vcf", ()),
    ("word vectors", _LEAVE_OUT, "vec", ()),
    ("sequences with headers", _TO_RECORDS, "fasta faa fna fastq fq", ()),
    ("encoded data", "decode it first", "b64 base64 uu", ()),
    ("compressed data", _DECOMPRESS, "br sz snappy lz z", ()),
    (
        "binary data",
        *(_TO_RECORDS, "xlsx sqlite npy npz pkl pickle h5 hdf5 orc avro tfrecord", ()),
    ),
    ("an SQLite database", _TO_RECORDS, "", (b"SQLite format 3\x00",)),
    ("a NumPy array", _TO_RECORDS, "", (b"\x93NUMPY",)),
    ("an HDF5 file", _TO_RECORDS, "", (b"\x89HDF\r\n\x1a\n",)),
    ("an ORC file", _TO_RECORDS, "", (b"ORC\x0a",)),
    ("an Avro file", _TO_RECORDS, "", (b"Obj\x01",)),
    (
        "a Python pickle, which is never loaded",
        *(_TO_RECORDS, "", tuple(b"\x80%c" % version for version in range(2, 6))),
    ),
    (
        "an image",
        *(_LEAVE_OUT, "png jpg jpeg gif"),
        (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a"),
    ),
    ("a program", _LEAVE_OUT, "", (b"\x7fELF",)),
)
_BY_SIGNATURE = {magic: Refusal(*kind[:2]) for kind in _KINDS for magic in kind[3]}
_BY_SUFFIX = {suffix: Refusal(*kind[:2]) for kind in _KINDS for suffix in kind[2].split()}
# Files that are known by their lines alone, whatever their suffix.
_BY_LINES = {
    "pickle": _BY_SIGNATURE[b"\x80\x02"],
    "sql": Refusal("a dump of a database", _TO_RECORDS),
    "js": Refusal("JavaScript of a Twitter archive", "remove what is before its first bracket"),
    "yaml": Refusal("records of YAML", "convert them to JSON lines first"),
    "csv": Refusal("a table", "pass --format csv to read it"),
    "tsv": Refusal("a table", "pass --format tsv to read it"),
}
# Files that are left out of a folder.
SIGNS_OF_TOKENIZER = {"tokenizer_config.json", "tokenizer.json", "merges.txt"}
_TOKENIZER_FILES = (
    *("tokenizer_config.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "*.model", "training.json"),
)
_COMPANIONS = (
    *("_*", "readme*", "licen[cs]e*", "notice*", "changelog*", "citation*", "*sums", "*sums.txt"),
    *("*.crc", "*.md5", "*.sha1", "*.sha256", "*.sha512", "*.py", "*.yaml", "*.yml", "*.lock"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.svg", "dataset_info*.json", "dataset_dict.json"),
    *("*.idx", "*.index", "*.cff", "*.bib", "*.toml", "*.sh", "requirements*.txt", "urls*.txt"),
    *("state.json", "cache-*.arrow", "manifest.json", *_TOKENIZER_FILES),
)
_PROSE = (".md", ".markdown", ".mdx", ".rst")  # may begin with tags
_CONTROLS = bytes(range(9))
_TAR = slice(257, 262), b"ustar"
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

_COMMENTS = rb"\s*+(?:[#%%][^\n]*+\n\s*+)*+"
_TIME = rb"(?:\d+:)?\d\d?:\d\d[.,]\d{1,3}"
# What follows the beginning of a file, by a suffix that such files have.
_BEGINNINGS = {
    suffix: re.compile(pattern, re.IGNORECASE if suffix in ("arff", "bib") else 0)
    for suffix, pattern in {
        "srt": rb"""(?x)\s*+(?:\d+\s*\n)?\[?%(time)b[ \t]*-->[ \t]*%(time)b
            | \s*+WEBVTT\b[^\n]*\n(?=[^>]*-->) | \[Script\ Info\]\s*\n | (?:\{\d+\}\{\d*\}[^\n]*\n){2}
            | \d+:\d\d:\d\d\.\d{3},\d+:\d\d:\d\d\.\d{3}\s*\n
            | (?:\[\w\w:[^\n]*\n)*(?:\[\d+:\d\d\.\d+\][^\n]*(?:\n|$)){2}"""
        % {b"time": _TIME},
        "mbox": rb"From \S+ [^\n]*\d\d:\d\d[^\n]*\n>?[\w-]+: ",
        "pickle": rb"""(?x)\(*(?:[dl]p\d+\n | c[a-z_][\w.]*\n\w+\n(?:p\d+\n|\(|q\x00) | S'[^\n]*'\np\d+\n)
            | \(+V[^\n]*\np0\n | V[^\n]*\np0\n\.$ | [\]}]q\x00""",
        "arff": _COMMENTS + rb"@relation\s",
        "bib": _COMMENTS + rb"@(?:article|book|in\w+|misc|\w*thesis|techreport)\s*\{[^\s,{}]+,",
        "ris": rb"TY  - \w+\s*\n|PMID- ?\d+\s*\n",
        "ttl": _COMMENTS + rb"@prefix\s+[\w-]*:\s*<|(?:<\w+:[^<>\s]+>\s+){2}[<\"_]",
        "po": _COMMENTS + rb'msgid[ \t]+"',
        "tex": _COMMENTS
        + rb"\\(?:document(?:class|style)|NeedsTeXFormat|RequirePackage|begin\{document)\s*[\[{}]",
        "fasta": rb">\S[^\n]*\n[A-Z*-]{15,}\s*(?:\n|$)|@\S[^\n]*\n[ACGTN.]+\s*\n\+[^\n]*\n",
        "ics": rb"BEGIN:V(?:CARD|CALENDAR)\s",
        "sql": rb"(?:--\s*\n)?-- (?:MySQL|MariaDB|phpMyAdmin|PostgreSQL)[^\n]* [Dd]ump\b|/\*M?!\d{5}",
        "uu": rb"begin [0-7]{3} \S+\s*\nM[ -`]{60}",
        "conll": rb"""(?x)-DOCSTART- | \#begin\ document\b
            | \s*\(\s*(?:ROOT|TOP)?\s*\((?:S|SINV|SBARQ|SQ|NP|VP|FRAG|INTJ|X)(?:-[A-Z]+)*\s""",
        "cha": rb"@UTF8\s*\n@|File type = \"ooTextFile",
        "warc": rb"HTTP/1\.[01] \d{3}\b[^\n]*\n[\w-]+:",
        "js": rb"window\.YTD\.\w",
        "yaml": rb"(?:---\s*\n)?- (?:\w+: [^\n]*\n(?:  [^\n]*\n)*?  )?text: ",
        "vec": rb"(?:\d+ \d+\n)?(?:\S+(?: -?\d+\.\d+(?:e-?\d+)?){20,}\s*\n){3}",
    }.items()
}
_HEAD_BYTES = 1 << 13
_MAX_LINES = 64
_FEW_LINES, _MANY_LINES = 4, 20

_HEADER = re.compile(rb"[!-9;-~]+:(?:\s|$)")
_OF_MAIL = {b"message-id", b"received", b"mime-version", b"return-path", b"delivered-to"}
_NAME = re.compile(r"[A-Za-z_][\w.-]*")
_NAMES = {
    *("text", "content", "sentence", "body", "title", "id", "label", "abstract", "review"),
    *("tweet", "message", "url"),
}
_CHUNK_TAG = re.compile(rb"O|[BIESLU]-[\w-]+")
_TAG = re.compile(rb"[A-Z][A-Z$-]{0,5}|[.,:;?!'`\"()$#-]{1,3}")
_TAGGED = re.compile(rb"\S+[/_](?:[A-Z][A-Z$]{0,4}|[.,:'`()]+)(?:-\w+)*")
_ENCODED = re.compile(rb"(?=[^\n]*[a-z])(?=[^\n]*[A-Z])(?=[^\n]*\d)[A-Za-z0-9+/]{60,76}")


def find_refusal(suffix: str, text: bytes) -> Refusal | None:
    """Return what a file is that cannot be read, and the remedy; None for text.

    Args:
        suffix: of its name, with the dot.
        text: its first bytes.
    """
    for magic, refusal in _BY_SIGNATURE.items():
        if text.startswith(magic):
            return refusal
    if (codec := find_codec(text, None)) is not None:
        return Refusal(f"{codec} data", _DECOMPRESS)
    where, magic = _TAR
    if text[where] == magic:
        return _BY_SUFFIX["tar"]
    start = text[:4096]
    zeros = start[::2].count(0), start[1::2].count(0)
    if len(start) > 200 and max(zeros) > 9 * len(start) // 20 > min(zeros):
        return _BY_SIGNATURE[b"\xff\xfe"]
    num_controls = len(start) - len(start.translate(None, _CONTROLS))
    if start[:16].count(0) > 3 or num_controls > max(16, len(start) // 10):
        return Refusal("binary data, or text that is not UTF-8", _TO_TEXT)
    if suffix not in _PROSE and _MARKUP.match(text.lstrip()):
        return _BY_SUFFIX["xml"]
    if _PYTHON_DICT.match(text):
        return Refusal("Python dictionaries, not JSON", _TO_RECORDS)
    if _HUB_ROWS.match(text):
        return Refusal("rows of the Hub's server", "pipe them in, as in jq -c '.rows[].row'")
    return _BY_SUFFIX.get(suffix.removeprefix("."))


def find_disguise(suffix: str, text: bytes, *, is_cut: bool) -> Refusal | None:
    """Return what a file that looks like text is, if a model should not learn its lines.

    Args:
        suffix: of its name, with the dot.
        text: its first bytes.
        is_cut: whether the file may go on after them.
    """
    found = None if suffix in _PROSE else _find_kind_of_lines(text, is_cut=is_cut)
    return None if found is None else _BY_LINES.get(found) or _BY_SUFFIX[found]


def _find_kind_of_lines(text: bytes, *, is_cut: bool) -> str | None:
    """Return a suffix that a file of such data has, ``csv`` for a table of it; None for prose or code."""
    is_cut |= len(text) > _HEAD_BYTES
    text = text[:_HEAD_BYTES].replace(b"\r\n", b"\n")
    for suffix, pattern in _BEGINNINGS.items():
        if pattern.match(text):
            return suffix
    lines = text.split(b"\n", _MAX_LINES)
    lines = [line.rstrip() for line in lines[: -1 if is_cut or len(lines) > _MAX_LINES else None]]
    while lines and not lines[0]:
        del lines[0]
    if not lines:
        return None
    if _is_mail(lines):
        return "eml"
    if len(lines) >= _FEW_LINES and all(map(_ENCODED.fullmatch, lines[:_FEW_LINES])):
        return "b64"
    return "conll" if _is_annotated(lines) else _find_table(lines)


def _is_mail(lines: Sequence[bytes]) -> bool:
    """Whether the lines begin with the headers of a message that was delivered."""
    names = set()
    for line in lines:
        if not line:
            break
        if not line[:1].isspace():
            if not _HEADER.match(line):
                return False
            names.add(line.partition(b":")[0].lower())
    return b"from" in names and not _OF_MAIL.isdisjoint(names)


def _is_annotated(lines: Sequence[bytes]) -> bool:
    """Whether each line is a token with its annotations, or each token is followed by its tag."""
    words = lines[0].split()
    if len(words) > _FEW_LINES and all(map(_TAGGED.fullmatch, words)):
        return True
    rows = [line for line in lines if line and not _is_mark(line)]
    delimiter = b"\t" if rows and b"\t" in rows[0] else b" "
    width = rows[0].count(delimiter) + 1 if len(rows) >= _FEW_LINES else 0
    if width < 2 or any(row.count(delimiter) != width - 1 for row in rows):
        return False
    fields = [row.split(delimiter) for row in rows]
    if any(b" " in row[0].strip() or not row[0] for row in fields):
        return False
    last = [row[-1] for row in fields]
    if all(map(_CHUNK_TAG.fullmatch, last)) and any(tag != b"O" for tag in last):
        return True
    if delimiter != b"\t":
        return False
    is_numbered = fields[0][0].startswith(b"1") and all(row[0][:1].isdigit() for row in fields)
    num_lines = len(lines) - lines.index(rows[0]) - lines[::-1].index(rows[-1])
    has_sentences = num_lines > len(rows)
    is_tagged = len(rows) > 2 * _FEW_LINES and all(map(_TAG.fullmatch, last))
    return (is_numbered and width == 10) or (has_sentences and (width > 2 or is_tagged))


def _is_mark(line: bytes) -> bool:
    """Whether a line among those of tokens is a comment or a tag."""
    return line.startswith(b"#") or (line.startswith(b"<") and line.endswith(b">"))


def _find_table(lines: Sequence[bytes]) -> str | None:
    """Return ``tsv`` or ``csv`` if all lines have the same fields."""
    for delimiter in "\t,;|":
        first = lines[0].decode(errors="replace")
        if delimiter not in first or first.startswith("|"):
            continue
        rows: list[list[str]] = []
        for row in _read_rows(lines, delimiter):
            rows.append(row)
            if len(row) != len(rows[0]):
                break
        width = len(rows[0]) if rows else 0
        if width < 2 or len(rows[-1]) != width:
            continue
        has_names = len(rows) > 1 and all(map(_NAME.fullmatch, rows[0]))
        is_named = has_names and not _NAMES.isdisjoint(map(str.lower, rows[0]))
        is_spaced = delimiter != "\t" and any(f[:1].isspace() for row in rows for f in row[1:])
        if is_named or (width > 2 and len(rows) >= _MANY_LINES and not is_spaced):
            return "tsv" if delimiter == "\t" else "csv"
    return None


def _read_rows(lines: Sequence[bytes], delimiter: str) -> Iterator[list[str]]:
    """Yield the rows up to the first error, such as a row that is cut."""
    text = (line.decode(errors="replace") + "\n" for line in lines)
    try:
        yield from filter(None, csv.reader(text, delimiter=delimiter, strict=True))
    except csv.Error:
        return


@cache
def _compile_patterns(patterns: tuple[str, ...]) -> re.Pattern[str]:
    """Return what matches a name that one of the patterns does; it takes 3 ms for all."""
    return re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)


def is_tokenizer_file(name: str) -> bool:
    """Whether a file has the name of one of a tokenizer's."""
    return bool(_compile_patterns(_TOKENIZER_FILES).match(name))


def is_companion(path: str) -> bool:
    """Whether a file accompanies data without being data, by its path in their folder."""
    *folders, name = path.split("/")
    is_named = _compile_patterns(_COMPANIONS).match(name)
    return bool(is_named) or any(part.startswith("_") for part in folders)
