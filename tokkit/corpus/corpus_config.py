"""How a corpus is read: the options that every stage reading text has in common.

Languages are named by codes, as users and records write them, and as sentencex knows them. It silently
treats an unknown language as English. So anything but a language code is refused, regions and scripts
are removed (``pt-BR``, ``deu_Latn``), and a code of three letters becomes the one of two letters, if
there is one.
"""

import re
from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from tokkit.errors import UsageError, require
from tokkit.options import Config, option, parse_size


@dataclass(frozen=True)
class InputFormat:
    """How files of a format are recognized, read and cut into work units.

    Attributes:
        reader: what reads it: ``text``, ``records``, ``csv``, ``table``, or ``counts`` for words and
            their counts, which only ``train`` reads.
        suffixes: of file names.
        parts: what a file is cut into; None if it can only be read from its start.
    """

    reader: str
    suffixes: tuple[str, ...] = ()
    parts: str | None = "bytes"


FORMATS = {
    "text": InputFormat("text"),
    "jsonl": InputFormat("records", (".jsonl", ".ndjson", ".jsonlines", ".ldjson")),
    "json": InputFormat("records", (".json", ".json5", ".jsonc"), parts=None),
    "csv": InputFormat("csv", (".csv", ".psv"), parts=None),
    "tsv": InputFormat("csv", (".tsv", ".tab"), parts=None),
    "parquet": InputFormat("table", (".parquet",), "row groups"),
    "arrow": InputFormat("table", (".arrow", ".feather", ".ipc"), "record batches"),
    "counts": InputFormat("counts", parts=None),
}
DOCUMENT_FORMATS = ("auto", *(name for name, kind in FORMATS.items() if kind.reader != "counts"))
DOCUMENTS = ("blank-line", "line", "file")
ERRORS = ("strict", "replace", "skip")
RECORD_FORMATS = tuple(name for name in DOCUMENT_FORMATS if name != "text")  # that may have fields
FORMAT_HELP = "Format of the inputs; auto tells it from the file names and first bytes."

_CODE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]{1,8})*")

# ISO 639-2 and 639-3 codes of languages that have a shorter one in ISO 639-1.
_PAIRS = """
    afr:af amh:am ara:ar arb:ar aze:az bel:be ben:bn bos:bs bul:bg cat:ca ces:cs cze:cs
    chi:zh zho:zh cmn:zh cym:cy wel:cy dan:da deu:de ger:de ell:el gre:el eng:en epo:eo
    est:et ekk:et eus:eu baq:eu fas:fa per:fa pes:fa fin:fi fra:fr fre:fr gle:ga glg:gl
    guj:gu heb:he hin:hi hrv:hr hun:hu hye:hy arm:hy ind:id isl:is ice:is ita:it jpn:ja
    kan:kn kat:ka geo:ka kaz:kk khm:km kor:ko lat:la lav:lv lvs:lv lit:lt mal:ml mar:mr
    mkd:mk mac:mk msa:ms may:ms zsm:ms mya:my bur:my nep:ne npi:ne nld:nl dut:nl nno:nn
    nob:nb nor:no oci:oc pan:pa pol:pl por:pt pus:ps ron:ro rum:ro rus:ru san:sa sin:si
    slk:sk slo:sk slv:sl spa:es sqi:sq alb:sq srp:sr swa:sw swh:sw swe:sv tam:ta tat:tt
    tel:te tgl:tl tha:th tur:tr ukr:uk urd:ur uzb:uz uzn:uz vie:vi yid:yi
"""
# Codes of ISO 639 for no one language.
_NO_LANGUAGE = frozenset(("und", "mul", "mis", "zxx"))
_SHORT_CODES = dict(pair.split(":") for pair in _PAIRS.split())


class CorpusConfig(Config):
    """Which text is read and how it falls into documents.

    A record without ``id_field`` is named by its position.
    """

    heading: ClassVar[str] = "Corpus"

    inputs: tuple[str, ...] = option(
        "Files, folders, globs or URIs, or - for standard input, in the order of reading.",
        argument="INPUT...",
    )
    format: str = option(FORMAT_HELP, default="auto", choices=DOCUMENT_FORMATS)
    documents: str = option(
        "Where a document of plain text ends: at a blank line, a line end or the end of the file.",
        default="blank-line",
        choices=DOCUMENTS,
        only_with={"format": ("auto", "text")},
    )
    text_field: tuple[str, ...] = option(
        "Field of a record, or column of a table, that holds the text, such as text or meta.text; "
        "repeatable: a blank line joins the texts of several.",
        default=("text",),
        only_with={"format": RECORD_FORMATS},
    )
    text_column: tuple[int, ...] = option(
        "Number of the column, from 1, that holds the text of CSV or TSV without a header; repeatable.",
        default=(),
        minimum=1,
        only_with={"format": ("auto", "csv", "tsv")},
    )
    quotes: bool = option(
        "Whether fields of CSV and TSV may be quoted.",
        default=True,
        flags=("--quotes/--no-quotes",),
        only_with={"format": ("auto", "csv", "tsv")},
    )
    id_field: str = option(
        "Field of a record, or column of a table, that names the document.",
        default="id",
        only_with={"format": RECORD_FORMATS},
    )
    errors: str = option(
        "What to do about invalid UTF-8: stop, replace it by U+FFFD, or skip the document.",
        default="strict",
        choices=ERRORS,
    )
    max_document_bytes: int = option(
        "Maximum size of a document or record; a larger one is an error, or is dropped with --errors skip.",
        default=256_000_000,
        minimum=1,
        parse=parse_size,
        shown_default="256MB",
    )

    @property
    def language_field(self) -> str | None:
        """Field of a record that holds its language; None unless a stage makes it an option."""
        return None

    def __post_init__(self) -> None:
        """Refuse inputs that cannot be read, and what every config refuses."""
        super().__post_init__()
        require(not isinstance(self.text_field, str), "text_field must be a tuple of names")
        require(len(self.inputs) > 0, "no input: name a file, a folder, a glob, a URI, or -")
        is_named = self.text_field != ("text",)
        require(
            not (self.text_column and is_named), "--text-column and --text-field exclude each other"
        )
        require(self.inputs.count("-") <= 1, "standard input (-) can be read only once")

    def describe(self, outside_key: Container[str]) -> dict[str, Any]:
        """Return the options that enter the content key, as JSON values.

        Args:
            outside_key: options on which the result does not depend.
        """
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name not in outside_key
        }
        if self.errors != "skip":  # the limit stops the work, so that it may be raised to continue
            del options["max_document_bytes"]
        return options


def language_code(language: str) -> str | None:
    """Return sentencex's code of a language; None for anything but a language code.

    ``en-GB`` becomes ``en``, ``deu_Latn`` becomes ``de``, ``yue`` stays, ``English`` is None.
    """
    match = _CODE.fullmatch(language)
    if match is None:
        return None
    code = match.group(1).lower()
    return _SHORT_CODES.get(code, code)


def names_language(language: str | None) -> bool:
    """Whether a record names a language; ``null``, ``unknown``, ``und`` and ``mul`` do not."""
    code = language_code(language or "")
    return code is not None and code not in _NO_LANGUAGE


def require_language(language: str) -> str:
    """Return sentencex's code of ``--language``.

    Raises:
        UsageError: for anything but a language code.
    """
    code = language_code(language)
    if code is None:
        raise UsageError(f"--language {language!r} is no language code, such as en, de or pt-BR")
    return code
