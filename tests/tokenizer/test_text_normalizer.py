"""Texts are normalized as the libraries do it, character for character."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers

from tokkit.tokenizer.text_normalizer import TextNormalizer

# Every kind of character that has met a fault: marks of several orders, jamo, what composes.
_CHARS = st.sampled_from(
    "aeZ 09\n\r\t\0`'\"éßſﬁ½²Å①㍿ﷺｶﾞ\u3099\u0301\u0323\u0327\u0345\u0344\u0307\u1100\u1161\u11a8가각"
    "क\u094d\u093c\u0958\u09c7\u09be\u1b05\u1b35ьй\u0e33\u0650\u0651\u2581\u3000\u200d\u200b\ufeff😀©\ufe0f🇫"
)
_TEXTS = st.lists(st.text(st.one_of(_CHARS, st.characters(exclude_categories=["Cs"]))))


def _normalize(normalizer: TextNormalizer, texts: Sequence[str]) -> list[str]:
    encoded = [text.encode() for text in texts]
    values = np.frombuffer(b"".join(encoded), np.uint8)
    bounds = np.cumsum([0, *map(len, encoded)])
    out_values, out_bounds, _ = normalizer.normalize(values, bounds)
    assert len(out_bounds) == len(bounds)
    return [bytes(out_values[start:stop]).decode() for start, stop in pairwise(out_bounds.tolist())]


@pytest.mark.parametrize("name", ["NFC", "NFD", "NFKC", "NFKD"])
@given(texts=_TEXTS)
def test_unicode_forms_are_those_of_the_library(name: str, texts: list[str]) -> None:
    expected: Callable[[str], str] = getattr(normalizers, name)().normalize_str
    normalizer = TextNormalizer.of_definition({"type": name})
    assert _normalize(normalizer, texts) == list(map(expected, texts))
