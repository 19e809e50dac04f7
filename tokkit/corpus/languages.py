"""Language codes, as users and records write them, as the codes that sentencex knows.

sentencex silently treats an unknown language as English. So anything but a language code is
refused, regions and scripts are removed (``pt-BR``, ``deu_Latn``), and a code of three letters
becomes the one of two letters, if there is one.
"""

import re

from tokkit.errors import UsageError

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
