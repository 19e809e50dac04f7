"""The encoder gives the ids and words of the library itself, and no special token for text."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from exactness import encoder_of, load_published
from hypothesis import given
from hypothesis import strategies as st
from madetokenizers import make_wordpiece
from tinytokenizers import TINY_VOCAB, added, wordpiece_json, write_bpe, write_json, write_vocab

from tokkit.errors import TokkitError
from tokkit.tokenizer.bpe_model import BpeModel
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoded import Encoded, TextTooLongError
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

VOCABULARIES = (
    "bert-base-uncased",
    "bert-base-cased",
    "bert-base-chinese",
    "bert-base-multilingual-cased",
    "gpt2",
    "roberta",
)
HOSTILE = (
    "",
    " ",
    "\x00\x01\u200b",
    "[CLS] a [MASK] b [SEP] [PAD] [UNK] [unused1]",
    "<s> a </s> <mask> <pad> <unk> <|endoftext|>",
    "x\u0301\u0345 가 \u1100\u1161 ﬁ İ ẞ ς \ufffd \ufeff",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101,
    "👩‍👩‍👧‍👦 \U0001f1e9\U0001f1ea \U000e0067 \U0010ffff",
    "   a   b\n\n c\t\td \u3000e\u2028f\x0bg\x85h",
)


def column(texts: list[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def expect(tokenizer: Tokenizer, texts: list[str]) -> tuple[list[int], list[int], list[bool]]:
    """What the library says, text by text: ids, offsets and where words start."""
    library = tokenizer.library
    assert library is not None
    ids: list[int] = []
    offsets, word_starts = [0], []
    for encoding in library.encode_batch(texts, add_special_tokens=False):
        ids += encoding.ids
        offsets.append(len(ids))
        before: int | None = None
        for word in encoding.word_ids:
            word_starts.append(word != before)
            before = word
    return ids, offsets, word_starts


def check(tokenizer: Tokenizer, texts: list[str]) -> None:
    compare(Encoder(tokenizer).encode(column(texts)), tokenizer, texts)


def compare(encoded: Encoded, tokenizer: Tokenizer, texts: list[str]) -> None:
    compare_with(expect(tokenizer, texts), encoded)


def compare_with(expected: tuple[list[int], list[int], list[bool]], encoded: Encoded) -> None:
    ids, offsets, word_starts = expected
    assert encoded.ids.tolist() == ids
    assert encoded.offsets.tolist() == offsets
    assert encoded.word_starts.to_pylist() == word_starts


def sample_lines(shared: Path) -> Iterator[str]:
    """A few lines in each of some hundred languages, and what is messy."""
    for folder, step in (("multi-udhr", 9), ("multi-ud", 1), ("multi-xquad", 1)):
        for path in sorted((shared / "corpora" / folder).glob("*.txt"))[::step]:
            yield from path.read_text().split("\n")[:6]
    for path in sorted((shared / "corpora" / "messy").iterdir()):
        yield from path.read_bytes()[:2000].decode(errors="replace").split("\n")


@pytest.mark.parametrize("name", ["bert-base-uncased", "bert-base-multilingual-cased", "gpt2"])
def test_real_text_in_many_languages_gives_the_library_s_ids_and_words(
    shared: Path, name: str
) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    texts = [*HOSTILE, *sample_lines(shared)]
    assert len(texts) > 500
    assert choose_kernel(tokenizer).name
    compare(encoder_of(tokenizer).encode(column(texts)), tokenizer, texts)
    compare(LibraryEncoder(tokenizer, window_bytes=20_000).encode(column(texts)), tokenizer, texts)


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2", "bert-base-multilingual-cased"])
def test_ids_are_as_small_as_the_vocabulary_allows(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    expected = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
    for texts in (["a b"], []):
        encoded = encoder_of(tokenizer).encode(column(texts))
        assert encoded.ids.dtype == expected
        assert encoded.offsets.dtype == np.int64
        assert encoded.word_starts.type == pa.bool_()


@given(
    texts=st.lists(st.text(st.sampled_from("abcthe cats.,[MASK]é中 \n\u0301\u200b")), max_size=8),
    bounds=st.tuples(st.integers(0, 8), st.integers(0, 8)),
    window_bytes=st.integers(1, 40),
)
def test_ids_depend_on_neither_slices_nor_cuts(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    bounds: tuple[int, int],
    window_bytes: int,
) -> None:
    folder = tmp_path_factory.getbasetemp() / "tiny"
    if not folder.exists():
        write_vocab(folder, do_lower_case=True)
    tokenizer = load_tokenizer(folder)
    part = column(["x", *texts]).slice(min(bounds), abs(bounds[0] - bounds[1]))
    for encoder in (Encoder(tokenizer), LibraryEncoder(tokenizer, window_bytes=window_bytes)):
        compare(encoder.encode(part), tokenizer, part.to_pylist())


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2"])
def test_a_book_on_one_line_gives_the_library_s_ids(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    text = (shared / "corpora" / "ru-novels" / "Gogol_Viy.txt").read_text().replace("\n", " ")
    texts = ["short", text, "", text[:5000]]
    for encoder in (encoder_of(tokenizer), LibraryEncoder(tokenizer, window_bytes=8192)):
        compare(encoder.encode(column(texts)), tokenizer, texts)


def test_a_word_of_any_length_is_encoded(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "x" * 300_000
    assert (
        Encoder(load_published(shared / "vocabs" / "bert-base-uncased")).encode(column([line])).ids
        == 100
    )
    texts = ["a", f" \n{line} b", line, "acgt" * 50_000 + ".\u3000c"]
    tokenizer = load_published(shared / "vocabs" / "gpt2")
    expected = expect(tokenizer, texts)
    for encoder in (Encoder(tokenizer), LibraryEncoder(tokenizer, window_bytes=10_000)):
        compare_with(expected, encoder.encode(column(texts)))
    monkeypatch.setattr(BpeModel, "longest_word", 100_000)
    compare_with(expected, Encoder(tokenizer).encode(column(texts)))


@pytest.mark.parametrize(
    ("names", "continues"),
    [(("NFC",), True), (("Lowercase",), True), (("NFC", "Lowercase"), False), (("Strip",), False)],
)
def test_the_library_goes_on_within_a_text_only_where_it_normalizes_a_part_as_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], *, continues: bool
) -> None:
    monkeypatch.setattr(BpeModel, "longest_word", 100)
    sides = {"strip_left": True, "strip_right": True}
    parts = [{"type": name} | (sides if name == "Strip" else {}) for name in names]
    definition = {
        **load_tokenizer(write_bpe(tmp_path / "bpe", ["x x"])).definition,
        "normalizer": parts[0] if len(parts) == 1 else {"type": "Sequence", "normalizers": parts},
    }
    tokenizer = load_tokenizer(write_json(tmp_path / "tokenizer.json", definition))
    assert BpeModel(tokenizer).library_continues == continues
    texts = ["a " + "X" * 2000 + " b"]
    if continues:
        compare(Encoder(tokenizer).encode(column(texts)), tokenizer, texts)
    else:
        with pytest.raises(TextTooLongError):
            Encoder(tokenizer).encode(column(texts))


def test_a_word_that_cannot_be_cut_is_refused(tmp_path: Path) -> None:
    """One token of it depends on all of it, so that no two windows agree."""
    path = write_json(tmp_path / "tokenizer.json", wordpiece_json(pre_tokenizer=None))
    encoder = LibraryEncoder(load_tokenizer(path), window_bytes=1000, longest_window=4000)
    with pytest.raises(TextTooLongError, match="4,000 bytes of text that this tokenizer") as e:
        encoder.encode(column(["a", "x" * 5000]))
    assert e.value.text == 1


@pytest.mark.parametrize("name", ["xlnet-cased-spiece", "spm-test_model", "bpe-en-hi-te"])
def test_sentencepiece_models_give_their_library_s_ids(shared: Path, name: str) -> None:
    import sentencepiece

    path = shared / "vocabs" / "sentencepiece" / f"{name}.model"
    tokenizer = load_tokenizer(path)
    texts = [*HOSTILE, *list(sample_lines(shared))[::7]]
    encoded = LibraryEncoder(tokenizer, window_bytes=5000).encode(column(texts))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    forbidden = set(tokenizer.all_special_ids)
    start = 0
    for text, stop in zip(texts, encoded.offsets[1:].tolist(), strict=True):
        unknown = processor.unk_id()
        expected = [unknown if i in forbidden else i for i in processor.encode(text)]
        assert encoded.ids[start:stop].tolist() == expected
        heads = [processor.id_to_piece(i).startswith("\u2581") for i in processor.encode(text)]
        assert encoded.word_starts[start:stop].to_pylist() == ([True, *heads[1:]] if heads else [])
        start = stop
    assert set(encoded.ids.tolist()) & forbidden == {processor.unk_id()}


@pytest.mark.parametrize("name", VOCABULARIES)
def test_text_never_becomes_a_special_token(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    spelled = [tokenizer.tokens[number] for number in tokenizer.all_special_ids]
    texts = [*spelled, *(f"a {token} b" for token in spelled), " ".join(spelled)]
    ids = set(encoder_of(tokenizer).encode(column(texts)).ids.tolist())
    assert ids & set(tokenizer.all_special_ids) <= {tokenizer.special_ids.get("unk")}


@pytest.mark.parametrize(
    "changes",
    [
        {"added_tokens": [added("[MASK]", 4), added("[SEP]", 3, special=True)]},
        {"pre_tokenizer": {"type": "WhitespaceSplit"}, "normalizer": None},
        {"pre_tokenizer": None, "normalizer": None},
    ],
)
def test_text_never_becomes_a_special_token_even_if_the_library_makes_one(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    tokenizer = load_tokenizer(write_json(tmp_path / "t.json", wordpiece_json(**changes)))
    ids = Encoder(tokenizer).encode(column(["[MASK]", "cat [SEP] the [MASK]"])).ids.tolist()
    assert not set(ids) & set(tokenizer.all_special_ids) - {1}


def test_a_special_token_in_text_is_refused_without_a_token_for_unknown_words(
    tmp_path: Path,
) -> None:
    form = wordpiece_json(pre_tokenizer=None, normalizer=None)
    entries = [*byte_level_alphabet(), "<s>"]
    form["model"] = {
        "type": "BPE",
        "ignore_merges": True,
        "vocab": {token: number for number, token in enumerate(entries)},
        "merges": [],
    }
    tokenizer = load_tokenizer(write_json(tmp_path / "tokenizer.json", form))
    with pytest.raises(TokkitError, match="text would be encoded as the special token '<s>'"):
        Encoder(tokenizer).encode(column(["<s>"]))


def test_other_pipelines_are_encoded_by_the_library(tmp_path: Path) -> None:
    number = len(TINY_VOCAB)
    for changes in (
        {"added_tokens": [{**added("##cat", number), "normalized": True}]},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": {"type": "Lowercase"}},
    ):
        path = write_json(tmp_path / "tokenizer.json", wordpiece_json(**changes))
        tokenizer = load_tokenizer(path)
        assert choose_kernel(tokenizer).name is None
        check(tokenizer, ["the cats ##cat unaffable", "a##cat!? the@@", ""])


def strip_ends(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The ids of a published case without the control tokens at both ends."""
    ends = {tokenizer.special_ids.get("cls"), tokenizer.special_ids.get("sep")}
    return ids[ids[0] in ends : len(ids) - (ids[-1] in ends)] if ids else ids


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("bert-base-uncased", "bert-uncased-squad-questions.jsonl"),
        ("bert-base-uncased", "llamacpp-bert-bge.jsonl"),
        ("bert-base-uncased", "rust-tokenizers-bert_uncased.jsonl"),
        ("gpt2", "rust-tokenizers-gpt2_cased.jsonl"),
        ("roberta", "rust-tokenizers-roberta_cased.jsonl"),
    ],
)
def test_published_ids_are_reproduced(shared: Path, tmp_path: Path, name: str, file: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    for path in (shared / "vocabs" / name).glob("vocab.*" if name.startswith("bert") else "*"):
        (folder / path.name).symlink_to(path)
    # These cases were made with a space put before the text.
    write_json(folder / "tokenizer_config.json", {"add_prefix_space": name == "roberta"})
    tokenizer = load_tokenizer(folder)
    lines = (shared / "conformance" / file).read_text().split("\n")
    cases = [json.loads(line) for line in lines[:1500] if line]
    cases = [case for case in cases if not has_control(case["text"])]
    encoded = Encoder(tokenizer).encode(column([case["text"] for case in cases]))
    found = np.split(encoded.ids, encoded.offsets[1:-1])
    for case, ids in zip(cases, found, strict=True):
        assert ids.tolist() == strip_ends(tokenizer, case["ids"]), case["text"]


def has_control(text: str) -> bool:
    return any(form in text for form in ("[SEP]", "[MASK]", "[CLS]", "</s>", "<|endoftext|>"))


def test_published_ids_of_the_bert_family_are_reproduced(shared: Path, tmp_path: Path) -> None:
    lines = (shared / "conformance" / "transformersjs-bert-family.jsonl").read_text().split("\n")
    cases = [case for case in map(json.loads, filter(None, lines)) if case["vocab"]]
    num_checked = 0
    for settings in {(c["vocab"], c["do_lower_case"], c["strip_accents"]) for c in cases}:
        vocab, do_lower_case, strip_accents = settings
        folder = tmp_path / "-".join(map(str, settings))
        folder.mkdir()
        (folder / "vocab.txt").symlink_to(shared / "vocabs" / vocab / "vocab.txt")
        config = {"do_lower_case": do_lower_case, "strip_accents": strip_accents}
        write_json(folder / "tokenizer_config.json", config)
        tokenizer = load_tokenizer(folder)
        encoder = Encoder(tokenizer)
        for case in cases:
            mine = settings == (case["vocab"], case["do_lower_case"], case["strip_accents"])
            if mine and "text_pair" not in case and not has_control(case["text"]):
                ids = encoder.encode(column([case["text"]])).ids
                assert ids.tolist() == strip_ends(tokenizer, case["ids"]), case["text"]
                num_checked += 1
    assert num_checked > 100


def test_published_ids_of_other_libraries_are_reproduced(shared: Path) -> None:
    path = shared / "conformance" / "transformersjs-other-families.jsonl"
    rows = [json.loads(line) for line in path.read_text().split("\n") if line]
    swift = json.loads((path.parent / "swift-transformers-tokenizer_tests.json").read_text())
    for name, cases in {
        "gpt2": [(row["text"], row["ids"]) for row in rows if row["model"] == "Xenova/gpt2"],
        "roberta": [
            (row["text"], row["ids"])
            for row in rows
            if row["model"] == "Xenova/all-distilroberta-v1"
        ],
        "bert-base-uncased": [
            (case["input"], case["encoded"]["input_ids"]) for case in swift["bert-base-uncased"]
        ],
    }.items():
        tokenizer = load_published(shared / "vocabs" / name)
        encoder = encoder_of(tokenizer)
        plain = [case for case in cases if not has_control(case[0])]
        assert len(plain) > 5
        for text, ids in plain:
            assert encoder.encode(column([text])).ids.tolist() == strip_ends(tokenizer, ids), text


@pytest.mark.parametrize("lead", ["", "\x00" * 3000, "\u0301" * 1700, " \u0301\x00 "])
def test_sentences_that_end_within_an_unknown_word_are_counted(lead: str) -> None:
    """Only its beginning is looked at; what the normalizer removes before it may be long."""
    tokenizer = make_wordpiece(
        ["a", "b"], flags={"strip_accents": True}, max_input_chars_per_word=9
    )
    text = "a " + lead + "x\u0301" * 2500 + " b"
    starts = np.cumsum([len(char.encode()) for char in text])
    ends = np.union1d(starts[:3000:97], starts[-1:])
    made, wanted = (
        make(tokenizer).encode(column([text]), ends) for make in (Encoder, LibraryEncoder)
    )
    assert made.ids.tolist() == wanted.ids.tolist()
    assert made.offsets.tolist() == wanted.offsets.tolist()
