"""``--words spaces`` takes words from white space, for any tokenizer, and changes no id."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from exactness import column, load_published, made_encoders
from hypothesis import given
from hypothesis import strategies as st
from tinytokenizers import CONTROL, write_vocab

from tokkit.corpus.sentences import find_word_ends, split_sentences
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.encoding.encode_unit import encode_sentences
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

CHARACTERS = "aabI1.,'\"  \n\t\x85\xa0\u2009\u3000é中語。\u0301\u200b\u302e\x1f"


def word_ends(text: str) -> list[int]:
    """The characters of white space that something else is before."""
    return [
        number
        for number in range(1, len(text))
        if text[number].isspace() and not text[number - 1].isspace()
    ]


def expect_starts(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[bool]]:
    """What the library's offsets say: ids, and which of them begin words between spaces."""
    if tokenizer.processor is not None:
        found = tokenizer.processor.encode(text, return_type="offset_mapping")
        ids, begins = found["ids"], [begin for begin, _ in found["offsets"]]
    else:
        assert tokenizer.library is not None
        encoding = tokenizer.library.encode(text, add_special_tokens=False)
        ids, begins = encoding.ids, [begin for begin, _ in encoding.offsets]
    words = np.searchsorted(word_ends(text), begins, "right").tolist()
    return ids, [word != before for before, word in pairwise([-1, *words])]


@given(st.lists(st.text(CHARACTERS, min_size=1), min_size=1))
def test_words_end_where_white_space_begins(texts: list[str]) -> None:
    array = column(["a ", *texts]).slice(1)
    _, offsets = string_buffers(array)
    expected = {
        start + len(text[:end].encode())
        for text, start in zip(texts, offsets.tolist(), strict=False)
        for end in word_ends(text)
    }
    assert {*find_word_ends(array).tolist()} - {*offsets.tolist()} == expected


@given(st.lists(st.text(CHARACTERS, min_size=1), min_size=1))
def test_words_between_spaces_are_those_of_the_offsets(texts: list[str]) -> None:
    sentences = split_sentences(column(texts), "none")
    for tokenizer, encoder in made_encoders():
        encoded = encode_sentences(encoder, sentences, "spaces")
        plain = encode_sentences(encoder, sentences, "tokenizer")
        assert encoded.ids.tolist() == plain.ids.tolist()
        assert encoded.offsets.tolist() == plain.offsets.tolist()
        expected = [start for text in texts for start in expect_starts(tokenizer, text)[1]]
        assert encoded.word_starts.to_pylist() == expected


@pytest.mark.parametrize(
    "name", ["modern/mistral-v3.model", "sentencepiece/xlnet-cased-spiece.model", "gpt2"]
)
def test_words_of_real_tokenizers(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    text = "  It was  the \n\n best-of times,\tit isn't 我 喜欢\u3000北京。 \n"
    ids, starts = expect_starts(tokenizer, text)
    sentences = split_sentences(column([text]), "auto")
    for encoder in (Encoder(tokenizer), LibraryEncoder(tokenizer)):
        encoded = encode_sentences(encoder, sentences, "spaces")
        assert encoded.ids.tolist() == ids
        assert encoded.word_starts.to_pylist() == starts


@pytest.fixture
def segmented(tmp_path: Path) -> tuple[Path, Path]:
    """BERT's tokenizer of some Chinese characters, and sentences with spaces between words."""
    tokenizer = write_vocab(tmp_path / "bert", (*CONTROL, *"我喜欢北京你的天气。"))
    path = tmp_path / "zh.txt"
    path.write_text("我 喜欢 北京 。\n你 喜欢 北京 的 天气。 我 喜欢 你\n\n" * 40, "utf-8")
    return tokenizer, path


def test_whole_word_masking_of_segmented_chinese(
    tmp_path: Path, segmented: tuple[Path, Path]
) -> None:
    tokenizer, path = segmented
    tokens, output = tmp_path / "tokens", tmp_path / "out"
    encode(
        EncodeConfig(
            inputs=(str(path),),
            tokenizer=tokenizer,
            output=tokens,
            sentences="lines",
            words="spaces",
            workers=0,
        )
    )
    build(
        BuildConfig(
            tokens=tokens,
            output=output,
            workers=0,
            max_seq_length=128,
            masking="static",
            mask_unit="word",
            mask_ratios=(1.0, 0.0, 0.0),
        )
    )
    names = load_tokenizer(tokens / "tokenizer").tokens
    masked = set()
    for path in output.glob("train-*.arrow"):
        for row in pa.ipc.open_file(path).read_all().to_pylist():
            groups: list[list[int]] = []
            for place, begins in zip(row["masked_positions"], row["masked_labels"], strict=True):
                if groups and groups[-1][0] == place - 1 and not row["word_starts"][place]:
                    groups[-1] = [place, *groups[-1][1:], begins]
                else:
                    groups.append([place, begins])
            masked |= {"".join(names[number] for number in group[1:]) for group in groups}
    assert masked <= {"我", "喜欢", "北京", "。", "你", "的", "天气。"}
    assert {"喜欢", "北京", "天气。"} <= masked
