"""The ids of the pieces of a text are those of the text, and pieces are of bounded size."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tinytokenizers import wordpiece_json, write_json

from tokkit.tokenizer.characters import WordCharacters, cut_at_words
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

# Letters of every fate: kept, lower-cased, decomposed, removed, alone in their word, white space.
CHARACTERS = "aabbcdeéÅẛ̣가한İßΣσς中\u3042\u0301\u0345\u200b\ufeff\x00\ufffd.,-'\u2019。、 \t\n\xa0\u3000\u2028😀\U0001d165\U0001d16d\u034f"

bert_flags = st.fixed_dictionaries(
    {
        "clean_text": st.booleans(),
        "handle_chinese_chars": st.booleans(),
        "strip_accents": st.sampled_from([None, True, False]),
        "lowercase": st.booleans(),
    }
)


def encode(tokenizer: Tokenizer, texts: list[str]) -> list[int]:
    assert tokenizer.library is not None
    batch = tokenizer.library.encode_batch(texts, add_special_tokens=False)
    return [number for encoding in batch for number in encoding.ids]


@given(
    text=st.text(st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")), max_size=80),
    flags=bert_flags,
    limit=st.integers(1, 6),
    piece_chars=st.integers(1, 12),
)
def test_bert_pieces_give_the_ids_of_the_text(
    tmp_path_factory: pytest.TempPathFactory,
    text: str,
    flags: dict[str, Any],
    limit: int,
    piece_chars: int,
) -> None:
    form = wordpiece_json(
        normalizer={"type": "BertNormalizer", **flags}, model={"max_input_chars_per_word": limit}
    )
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    tokenizer = load_tokenizer(write_json(path, form))
    characters = WordCharacters.of_definition(tokenizer.definition)
    pieces = list(cut_at_words(text, characters, limit, piece_chars))
    assert encode(tokenizer, pieces) == encode(tokenizer, [text])
    if not {"\U0001d165", "\U0001d16d"} & set(text):  # with such marks, what is nothing stays
        assert max(map(len, pieces), default=0) <= 2 * piece_chars + limit + 3


def test_a_word_too_long_for_the_model_loses_its_end() -> None:
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    characters = WordCharacters(
        BertNormalizer().normalize_str, BertPreTokenizer(), orders_marks=True
    )
    pieces = list(cut_at_words("x" * 1_000_000 + ", y", characters, 100, piece_chars=1000))
    assert sum(map(len, pieces)) < 120
    assert "".join(pieces).endswith("x, y")
