"""Normalize batches of texts as a tokenizer's library does, at the speed of memory.

A normalizer is a sequence of steps. A step that works on characters is asked, once, what it makes
of each character and of each group of characters that it may combine, and a kernel puts the
answers together (``tokkit.kernels.encode.normalize``); so the library and we cannot disagree, as
long as texts are cut into groups where they can be (``character_rules``). What is too large for the
tables, such as a letter with dozens of accents, is normalized by the library each time.

In tokenizers whose sign for a space is U+2581, the space itself stands for it here, as in the
models' tokens: so a text with nothing to normalize is not copied.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64
from tokkit.tokenizer.character_rules import (
    PatternRules,
    PrecompiledRules,
    SentencepieceRules,
    SingleRules,
    UnicodeRules,
    read_forms,
    user_defined,
)
from tokkit.tokenizer.definitions import WORD_BEGINNING, UnsupportedError, list_parts
from tokkit.tokenizer.normalizer_steps import CharacterStep, ReplaceStep, Step, Text, TrimStep
from tokkit.tokenizer.sentencepiece_model import SentencepieceModel
from tokkit.tokenizer.tokenizer import Tokenizer

_UNICODE = ("NFC", "NFD", "NFKC", "NFKD")
_SINGLE = ("Lowercase", "StripAccents", "Nmt")
# What Unicode calls White_Space, which later versions keep.
_WHITE_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
_ALL = np.ones(1, np.bool_)


class TextNormalizer:
    """Normalizes batches of texts.

    Args:
        steps: what to do, in order.
        metaspace: what to do after that, before a space is put in front of texts.
        scheme: of which texts: ``always``, ``first`` or ``never``; None is like ``never``, but
            leaves out ``metaspace``.
    """

    def __init__(
        self, steps: Sequence[Step], metaspace: Sequence[Step] = (), scheme: str | None = None
    ) -> None:
        self._steps = steps
        self._metaspace = metaspace
        self._scheme = scheme
        self._prefix = TrimStep("", "", "" if scheme == "never" else " ", even_before=False)

    @classmethod
    def of_tokenizer(cls, tokenizer: Tokenizer) -> "TextNormalizer":
        """Return the normalizer of a tokenizer.

        Raises:
            UnsupportedError: if only the library knows a part of it.
        """
        if tokenizer.model is not None and tokenizer.processor is not None:
            return cls._of_model(tokenizer.model, tokenizer.processor.serialized_model_proto())
        definition = tokenizer.definition
        return cls.of_definition(definition.get("normalizer"), definition.get("pre_tokenizer"))

    @classmethod
    def of_definition(
        cls, normalizer: Mapping[str, Any] | None, pre_tokenizer: Mapping[str, Any] | None = None
    ) -> "TextNormalizer":
        """Return what a ``tokenizer.json`` says.

        Args:
            normalizer: its normalizer.
            pre_tokenizer: its pre-tokenizer: ``Metaspace`` and ``ByteLevel`` may put a space in front
                of texts.

        Raises:
            UnsupportedError: if only the library knows a part of it.
        """
        steps = _Steps()
        for part in list_parts(normalizer):
            steps.add(part)
        parts = list_parts(pre_tokenizer)
        schemes = [part["prepend_scheme"] for part in parts if part["type"] == "Metaspace"]
        if not schemes:
            adds_space = any(part.get("add_prefix_space", False) for part in parts)
            return cls(steps.found, scheme="always" if adds_space else None)
        metaspace = _read_metaspace(parts, is_escaped=steps.is_escaped)
        return cls(steps.found, metaspace, schemes[0])

    @classmethod
    def _of_model(cls, model: SentencepieceModel, serialized: bytes) -> "TextNormalizer":
        """Return what a sentencepiece model says."""
        if not model.escape_whitespaces or model.treat_whitespace_as_suffix:
            raise UnsupportedError("words that do not begin with U+2581")
        joins = model.remove_extra_whitespaces
        texts = [*read_forms(model.charsmap), *user_defined(model)]
        if joins and any("  " in text for text in texts):
            raise UnsupportedError("its spaces in a row")
        steps: list[Step] = []
        if model.charsmap:
            steps.append(CharacterStep(SentencepieceRules(model, serialized)))
        if joins:
            steps += [TrimStep(" ", ""), ReplaceStep("  ", " ", is_run=True)]
        steps.append(ReplaceStep(WORD_BEGINNING, " "))
        prefix = " " if model.add_dummy_prefix else ""
        return cls([*steps, TrimStep("", " " if joins else "", prefix)])

    def normalize(self, values: Bytes, bounds: Int64, ends: Int64 | None = None) -> Text:
        """Normalize segments of text, each by itself; what does not change is not copied.

        Args:
            values: uint8, valid UTF-8.
            bounds: int64 ``[num_segments + 1]``, into ``values``.
            ends: int64, where sentences end in ``values``, ascending, from ``bounds[0]`` to its
                last; or None.

        Returns:
            The same three. A segment may be empty. An end stands behind what the text before it
            became, or behind a group of characters that was normalized together.
        """
        for step in self._steps:
            values, bounds, ends = step.apply(values, bounds, ends)
        return values, bounds, ends

    def add_prefix(
        self, values: Bytes, bounds: Int64, ends: Int64 | None = None, is_first: Bools | None = None
    ) -> Text:
        """Put a space in front of the segments that the pre-tokenizer puts it in front of.

        Args:
            values: uint8, normalized text.
            bounds: int64 ``[num_segments + 1]``, into ``values``.
            ends: see ``normalize``.
            is_first: bool ``[num_segments]``, which segments begin a text; None for all.

        Returns:
            See ``normalize``.
        """
        if self._scheme is None:
            return values, bounds, ends
        for step in self._metaspace:
            values, bounds, ends = step.apply(values, bounds, ends)
        takes_prefix = _ALL if is_first is None or self._scheme == "always" else is_first
        return self._prefix.apply(values, bounds, ends, takes_prefix)


class _Steps:
    """The steps of a normalizer, from its parts.

    Attributes:
        found: the steps.
        is_escaped: whether spaces have become U+2581 before, for which the space stands on.
    """

    def __init__(self) -> None:
        self.found: list[Step] = []
        self.is_escaped = False
        self._last_parts: list[Mapping[str, Any]] = []

    def add(self, part: Mapping[str, Any]) -> None:
        """Add a part; see ``TextNormalizer.of_definition``."""
        kind = part["type"]
        if self.is_escaped and kind not in ("Replace", "Prepend", "NFC", "NFD"):
            raise UnsupportedError(f"its normalizer {kind} after Replace of spaces")
        if kind in _SINGLE and self._last_parts:
            self._last_parts.append(part)
            self.found[-1] = _make_character_step(self._last_parts)
            return
        self._last_parts = []
        if kind in _UNICODE or kind in _SINGLE:
            self._last_parts = [part]
            self.found.append(_make_character_step(self._last_parts))
        elif kind == "Precompiled":
            self.found.append(CharacterStep(PrecompiledRules(part)))
        elif kind == "Strip":
            left = _WHITE_SPACE if part["strip_left"] else ""
            self.found.append(TrimStep(left, _WHITE_SPACE if part["strip_right"] else ""))
        elif kind == "Prepend":
            self.found.append(TrimStep("", "", self._translate(part["prepend"])))
        elif kind == "Replace":
            self._add_replace(part)
        else:
            raise UnsupportedError(f"its normalizer {kind}")

    def _add_replace(self, part: Mapping[str, Any]) -> None:
        ((form, pattern),) = part["pattern"].items()
        content: str = part["content"]
        is_regex = form == "Regex"
        if content == WORD_BEGINNING and (pattern == " " or (is_regex and pattern == " +")):
            self._escape(joins=pattern == " +")
        elif is_regex and pattern in (" {2,}", " +", r"\A +", r" +\z") and self.is_escaped:
            pass  # no spaces are left
        elif is_regex and pattern == " {2,}":
            self.found.append(ReplaceStep("  ", content, is_run=True))
        elif is_regex and pattern == r"\A +" and not content:
            self.found.append(TrimStep(" ", ""))
        elif is_regex and pattern in (r" +\z", rf"{WORD_BEGINNING}+\z") and not content:
            self.found.append(TrimStep("", self._translate(pattern[0])))
        elif is_regex:
            if self.is_escaped:
                raise UnsupportedError(f"its normalizer Replace of {pattern!r}")
            self.found.append(CharacterStep(PatternRules(part)))
        elif not (self.is_escaped and " " in pattern):
            string, content = self._translate(pattern), self._translate(content)
            if len(string.encode()) > 1:
                self.found.append(ReplaceStep(string, content))
            else:
                single = {**part, "pattern": {"String": string}, "content": content}
                self.found.append(CharacterStep(SingleRules(single)))

    def _escape(self, *, joins: bool) -> None:
        """Add that U+2581 replaces spaces: for us, that spaces replace U+2581.

        Args:
            joins: whether for several spaces in a row there is only one.
        """
        if self.is_escaped:
            return
        last = self.found[-1] if self.found else None
        if isinstance(last, TrimStep) and last.prefix == WORD_BEGINNING:
            last.prefix = " "
        if joins:
            self.found.append(ReplaceStep("  ", " ", is_run=True))
        self.found.append(ReplaceStep(WORD_BEGINNING, " "))
        self.is_escaped = True

    def _translate(self, text: str) -> str:
        """Return what stands for a text in the normalized text so far."""
        if not self.is_escaped:
            return text
        if " " in text:
            raise UnsupportedError("its normalizer adds spaces after Replace of spaces")
        return text.replace(WORD_BEGINNING, " ")


def _make_character_step(parts: Sequence[Mapping[str, Any]]) -> "CharacterStep":
    is_unicode = parts[0]["type"] in _UNICODE
    return CharacterStep(UnicodeRules(*parts) if is_unicode else SingleRules(*parts))


def _read_metaspace(parts: Sequence[Mapping[str, Any]], *, is_escaped: bool) -> list[Step]:
    """Return the steps of a pre-tokenizer ``Metaspace`` before it puts spaces in front of texts.

    Args:
        parts: of the pre-tokenizer.
        is_escaped: whether the space stands for U+2581 before.
    """
    kinds = [part["type"] for part in parts]
    place = kinds.index("Metaspace")
    if parts[place]["replacement"] != WORD_BEGINNING or kinds.count("Metaspace") > 1:
        raise UnsupportedError("its pre-tokenizer Metaspace")
    is_always = parts[place]["prepend_scheme"] == "always"
    splits_words = kinds[:place] == ["WhitespaceSplit"] and is_always and not is_escaped
    if kinds[:place] and not splits_words:
        raise UnsupportedError(f"its pre-tokenizer {kinds[0]} before Metaspace")
    steps: list[Step] = []
    if splits_words:
        white_space = {"type": "Replace", "pattern": {"Regex": r"\s"}, "content": " "}
        steps = [
            CharacterStep(SingleRules(white_space)),
            ReplaceStep("  ", " ", is_run=True),
            ReplaceStep(f" {WORD_BEGINNING}", WORD_BEGINNING),
            TrimStep(" ", " "),
        ]
    return steps if is_escaped else [*steps, ReplaceStep(WORD_BEGINNING, " ")]
