r"""What a file of text without a telling name is, if its lines show that a model should not learn them.

    1                          1  The  the  DET …         From ann@x.org Mon Jan  1 12:00:00 2024
    00:00:01,000 --> 00:00…    2  cat  cat  NOUN …        Subject: Hello

Each rule asks for what prose, poems, lists, logs and source code never have: a signature, or the
same structure in every one of the first lines. So no text is refused for one line that resembles data.
"""

import csv
import re
from collections.abc import Iterator, Sequence

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


def find_disguise(text: bytes, *, is_cut: bool) -> str | None:
    """Return a suffix that a file of such data has, ``csv`` for a table of it; None for prose or code.

    Args:
        text: the first bytes of a file that looks like text.
        is_cut: whether the file may go on after them.
    """
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
    """Whether each line is a token and what is said of it, or each token has its tag."""
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
