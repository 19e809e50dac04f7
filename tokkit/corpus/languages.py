"""Language codes: from what a user or a record says to what sentencex knows, two letters or three.

sentencex takes whatever it does not know for English, without a word. So what is no language code
is refused here, regions and scripts are left out (``pt-BR``, ``deu_Latn``), and three letters of a
language that has a code of two are turned into these.
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
_SHORT_CODES = dict(pair.split(":") for pair in _PAIRS.split())


def language_code(language: str) -> str | None:
    """The code under which sentencex knows a language; None for what is no language code.

    ``en-GB`` is ``en``, ``deu_Latn`` is ``de``, ``yue`` stays, ``English`` is none.
    """
    match = _CODE.fullmatch(language)
    if match is None:
        return None
    code = match.group(1).lower()
    return _SHORT_CODES.get(code, code)


def require_language(language: str) -> str:
    """The code that ``--language`` names.

    Raises:
        UsageError: for what is no language code.
    """
    code = language_code(language)
    if code is None:
        raise UsageError(f"--language {language!r} is no language code, such as en, de or pt-BR")
    return code
