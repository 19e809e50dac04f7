"""The alphabet is that of the words, counted one by one."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainruns import word_counts

from reference import wordpiece_trainer
from tokkit.errors import TokkitError
from tokkit.vocab.trainers import count_alphabet, read_characters
from tokkit.vocab.word_counts import WordCounts

CHARACTERS = "aabcdeéẛ̣가中\u3042\u0301.😀"


def counted(words: dict[str, int]) -> WordCounts:
    return word_counts({word.encode(): count for word, count in words.items()})


@given(
    st.dictionaries(
        st.text(st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")), min_size=1),
        st.integers(1, 1 << 40),
        max_size=8,
    ),
    st.integers(1, 12),
)
def test_the_kernel_counts_as_its_twin(words: dict[str, int], limit: int) -> None:
    assert count_alphabet(counted(words), limit) == wordpiece_trainer.count_alphabet(words, limit)


def test_real_text_is_counted_like_that_too(shared: Path) -> None:
    for name in ("hi_pud-ud-test", "ko_pud-ud-test", "zh_pud-ud-test"):
        words = Counter((shared / "corpora" / "multi-ud" / f"{name}.txt").read_text().split())
        expected = wordpiece_trainer.count_alphabet(words, 500)
        assert count_alphabet(counted(words), 500) == expected


def test_characters_that_are_named_go_first() -> None:
    words = counted({"aab": 9, "ca": 1})
    alphabet = count_alphabet(words, 3, {"c", "z"})
    assert alphabet.characters == ("a", "c", "z")
    assert alphabet.continuing == ("a",)
    assert (alphabet.num_distinct, alphabet.num_characters, alphabet.num_removed) == (3, 29, 9)
    assert count_alphabet(words, 1, {"c", "z"}).characters == ("c",)


def test_a_file_of_characters_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="none: no such file or folder"):
        read_characters(tmp_path / "none")
    path = tmp_path / "alphabet.txt"
    path.write_bytes(b"a\xff")
    with pytest.raises(TokkitError, match="invalid UTF-8 at byte 1"):
        read_characters(path)
    path.write_bytes(b"\xef\xbb\xbfa\n")
    assert read_characters(path) == "a\n"
