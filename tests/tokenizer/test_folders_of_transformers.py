"""A folder of any class gives the ids of ``transformers.AutoTokenizer``, or is refused in one line."""

import base64
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfolders import WORDS, encode, spm_model, theirs
from tinytokenizers import (
    TINY_VOCAB,
    added,
    wordpiece_json,
    write_bpe,
    write_json,
    write_vocab,
)

from tokkit.errors import TokkitError
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "The cat's unaffable, cát Sat; 中文 \u200b\x00 x\u0301yz 😀 12345",
    "``Ünïcode'' Straße — ÀÉ \uff26\uff35\uff2c\uff2c ① ﬁ",
    "日本語のテスト。 नमस्ते दुनिया مرحبا بالعالم Привет мир",
    "  two  spaces\ttab\nline <xy> [E9] <extra_id_0>x ",
    "",
]
PLAIN = [text.replace("<extra_id_0>", "") for text in TEXTS]


def assert_same(tokenizer: Tokenizer, other: Any, texts: Iterable[str] = TEXTS) -> None:
    assert tokenizer.library is not None
    assert tokenizer.library.get_vocab() == other.get_vocab()
    for text in texts:
        ids = tokenizer.library.encode(text, add_special_tokens=False).ids
        assert ids == other(text, add_special_tokens=False)["input_ids"], text
    for role, number in tokenizer.special_ids.items():
        assert getattr(other, f"{role}_token_id") in (number, None)


T5_IDS: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
ALBERT_IDS: dict[str, Any] = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1}
DEBERTA_IDS: dict[str, Any] = dict(
    zip(("pad_id", "bos_id", "eos_id", "unk_id"), range(4), strict=True),
    pad_piece="[PAD]",
    unk_piece="[UNK]",
    bos_piece="[CLS]",
    eos_piece="[SEP]",
)
LLAMA: dict[str, Any] = {"kind": "bpe", "size": 600, "byte_fallback": True}
XLNET = "<cls> <sep> <pad> <mask> <eod> <eop>"
# The name of the file, the options of the model in it, and of the configuration.
CLASSES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "XLMRobertaTokenizer": ("sentencepiece.bpe.model", {}, {}),
    "AlbertTokenizer": ("spiece.model", ALBERT_IDS | {"symbols": "[CLS] [SEP] [MASK]"}, {}),
    "XLNetTokenizer": ("spiece.model", {"symbols": XLNET}, {"do_lower_case": True}),
    "DebertaV2Tokenizer": ("spm.model", DEBERTA_IDS, {}),
    "T5Tokenizer": ("spiece.model", T5_IDS, {"extra_ids": 10}),
    "MBartTokenizer": ("sentencepiece.bpe.model", {}, {}),
    "CamembertTokenizer": ("sentencepiece.bpe.model", {}, {}),
    "BarthezTokenizer": ("sentencepiece.bpe.model", {}, {}),
    "PegasusTokenizer": ("spiece.model", T5_IDS, {}),
    "NllbTokenizer": ("sentencepiece.bpe.model", {"kind": "bpe"}, {}),
    "LlamaTokenizer": ("tokenizer.model", LLAMA, {}),
    "PreTrainedTokenizerFast": ("tokenizer.model", LLAMA, {}),
}


def write_class(folder: Path, name: str, **config: Any) -> Path:
    file, options, class_config = CLASSES[name]
    write_json(
        folder / "tokenizer_config.json", {"tokenizer_class": name, **class_config, **config}
    )
    (folder / file).write_bytes(spm_model(**options))
    return folder


@pytest.mark.parametrize("name", CLASSES)
def test_a_sentencepiece_model_is_read_as_its_class_reads_it(tmp_path: Path, name: str) -> None:
    folder = write_class(tmp_path / "theirs", name)
    tokenizer, other = load_tokenizer(folder), theirs(folder)
    assert_same(tokenizer, other)
    assert encode(tokenizer, PLAIN) == other(PLAIN, add_special_tokens=False)["input_ids"]
    save_tokenizer(tokenizer, tmp_path / "saved")
    saved = load_tokenizer(tmp_path / "saved")
    assert saved.fingerprint == tokenizer.fingerprint
    assert saved.special_ids == tokenizer.special_ids

    @settings(max_examples=25, deadline=None)
    @given(st.lists(st.sampled_from(WORDS) | st.text(max_size=5), max_size=8).map(" ".join))
    def check(text: str) -> None:
        assert_same(tokenizer, other, [text])

    check()


def test_the_model_type_of_a_folder_names_its_class(tmp_path: Path) -> None:
    folder = write_class(tmp_path, "XLMRobertaTokenizer")
    named = load_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    write_json(folder / "config.json", {"model_type": "xlm-roberta"})
    for path in (folder, folder / "sentencepiece.bpe.model"):
        assert load_tokenizer(path).fingerprint == named.fingerprint
    (folder / "config.json").unlink()
    assert load_tokenizer(folder).kind == "sentencepiece"
    versioned = (folder / "sentencepiece.bpe.model").rename(folder / "tokenizer.model.v7m1")
    assert load_tokenizer(versioned).kind == "sentencepiece"


def test_a_vocabulary_whose_unknown_token_its_class_does_not_expect_is_refused(
    tmp_path: Path,
) -> None:
    folder = write_class(tmp_path, "AlbertTokenizer")
    (folder / "spiece.model").write_bytes(spm_model(symbols="[CLS] [SEP] [MASK]"))
    with pytest.raises(TokkitError, match="unknown characters become the special token '<s>', but"):
        load_tokenizer(folder)


def test_added_tokens_of_a_sentencepiece_folder_get_their_ids(tmp_path: Path) -> None:
    folder = write_class(tmp_path, "DebertaV2Tokenizer", mask_token="[MASK]")  # noqa: S106
    size = len(sentencepiece.SentencePieceProcessor(model_proto=spm_model(**DEBERTA_IDS)))
    write_json(folder / "added_tokens.json", {"[MASK]": size, "<xy>": size + 1})
    tokenizer = load_tokenizer(folder)
    assert tokenizer.special_ids["mask"] == size
    assert_same(tokenizer, theirs(folder))


def test_a_tiktoken_file_is_converted_with_its_special_tokens(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" the", b" c", b"at"]
    lines = [base64.b64encode(token) + b" %d\n" % i for i, token in enumerate(tokens)]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"".join(lines))
    with pytest.raises(TokkitError, match=r"tokenizer\.model: a tiktoken file"):
        load_tokenizer(tmp_path)
    special = {"content": "<|begin_of_text|>", "special": True}
    config = {"added_tokens_decoder": {str(len(tokens)): special}, "bos_token": special["content"]}
    write_json(
        tmp_path / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    )
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.tokens[-1] == special["content"]
    assert_same(tokenizer, theirs(tmp_path))


def test_a_tekken_file_gives_the_ids_of_tiktoken(tmp_path: Path) -> None:
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [
        b"th",
        b"he",
        b"the",
        b" t",
        b" the",
        b"in",
        b"ing",
        b"\xe4\xb8",
        b" cat",
        b"left out",
    ]
    rows = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode()}
        for rank, token in enumerate(tokens)
    ]
    sizes = {"default_vocab_size": 30 + len(rows) - 1, "default_num_special_tokens": 30}
    pattern = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+"
    config = {"pattern": pattern, **sizes}
    path = write_json(tmp_path / "tekken.json", {"config": config, "vocab": rows})
    write_json(tmp_path / "config.json", {"model_type": "mistral"})
    theirs = tiktoken.Encoding(
        name="",
        pat_str=pattern,
        mergeable_ranks={token: rank for rank, token in enumerate(tokens[:-1])},
        special_tokens={},
    )
    for source in (path, tmp_path):
        tokenizer = load_tokenizer(source)
        texts = [*TEXTS, "the thing in there", " cat cat", "left out"]
        expected = [[30 + rank for rank in theirs.encode_ordinary(text)] for text in texts]
        assert encode(tokenizer, texts) == expected
        assert tokenizer.tokens[:3] == ("<unk>", "<s>", "</s>")
        assert tokenizer.tokens[29] == "<SPECIAL_29>"
    named = [{"rank": 4, "token_str": "[IMG]"}]
    write_json(path, {"config": config, "vocab": rows, "special_tokens": named})
    assert load_tokenizer(path).tokens[3:5] == ("<SPECIAL_3>", "[IMG]")
    for damage in (rows[1:], [*rows, {}]):
        write_json(path, {"config": config, "vocab": damage})
        with pytest.raises(TokkitError, match=r"tekken\.json: damaged .*; download it again"):
            load_tokenizer(path)


ESM = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>"
)


def test_every_letter_of_a_protein_is_a_token(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(ESM.split()))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "EsmTokenizer"})
    tokenizer, other = load_tokenizer(tmp_path), theirs(tmp_path)
    texts = ["MKTAYIAKQR", "MK TJJA\nlqZZ", "A<null_1>-.?L", ""]
    assert_same(tokenizer, other, texts)
    tokenizer.require_special("cls", "sep", "mask")
    assert tokenizer.tokens[tokenizer.special_ids["sep"]] == "<eos>"
    (ids,) = encode(tokenizer, ["A<mask>L"])
    assert [tokenizer.tokens[number] for number in ids] == ["A", "<unk>", "L"]


@pytest.mark.parametrize("name", ["ByT5Tokenizer", "PerceiverTokenizer"])
def test_bytes_are_tokens_with_the_ids_of_their_class(tmp_path: Path, name: str) -> None:
    config = {"tokenizer_class": name, "added_tokens_decoder": {"400": {"content": "<xy>"}}}
    write_json(tmp_path / "tokenizer_config.json", config)
    tokenizer, other = load_tokenizer(tmp_path), theirs(tmp_path)
    texts = [*PLAIN, "".join(map(chr, range(600)))]
    rows = encode(tokenizer, texts)
    assert rows == other(texts, add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode(row) for row in rows] == texts
    assert {*other.all_special_ids} <= {*tokenizer.all_special_ids}
    specials = "".join(tokenizer.tokens[number] for number in tokenizer.all_special_ids)
    assert len(encode(tokenizer, [specials])[0]) == len(specials)


MERGES = ["a t", "Ġ c", "Ġc at", "Ġ t", "h e", "Ġt he"]
CONFIGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nothing": ({}, {}),
    "cased": ({"do_lower_case": False, "tokenize_chinese_chars": False}, {}),
    "accents": ({"strip_accents": False, "add_prefix_space": True}, {}),
    "roles": ({"mask_token": "[M]", "pad_token": "the", "image_token": "<img>"}, {}),
    "extra": (
        {
            "additional_special_tokens": [
                "[E1]",
                {"__type": "AddedToken", "content": "[E2]", "lstrip": True},
            ]
        },
        {},
    ),
    "decoder": (
        {
            "added_tokens_decoder": {
                "400": {"content": "<xy>", "normalized": True},
                "300": {"content": "[E9]", "special": True, "rstrip": True},
            }
        },
        {"special_tokens_map.json": {"mask_token": "[M]"}, "added_tokens.json": {"no": 1000}},
    ),
    "added": (
        {"mask_token": "[M]"},
        {"added_tokens.json": {"[M]": 401, "<xy>": 400, "cat": 3}},
    ),
    "map": ({}, {"special_tokens_map.json": {"mask_token": {"content": "[M]", "lstrip": True}}}),
}


def write_known(folder: Path, name: str, *, is_json: bool) -> dict[str, Any]:
    """Write the files of a class that tokkit reads itself, and return the roles it needs."""
    if name in ("GPT2Tokenizer", "RobertaTokenizer"):
        special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>")
        write_bpe(folder, MERGES, special if name == "RobertaTokenizer" else special[-1:])
        if is_json:
            saved = load_tokenizer(folder).definition
            rows = [*saved["added_tokens"], added("<q>", 270)]
            # The class does not take these from the file.
            write_json(
                folder / "tokenizer.json",
                {**saved, "added_tokens": rows, "normalizer": {"type": "Lowercase"}},
            )
    elif is_json:
        rows = [added("[MASK]", 4, special=True), added("<q>", len(TINY_VOCAB))]
        changed = {"lowercase": False, "handle_chinese_chars": False}
        normalizer = {**wordpiece_json()["normalizer"], **changed}
        form = wordpiece_json(added_tokens=rows, normalizer=normalizer)
        write_json(folder / "tokenizer.json", form)
    else:
        write_vocab(folder, (*TINY_VOCAB, "The", "cát"))
    return {}


KNOWN = (
    *("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "ElectraTokenizer"),
    *("ConvBertTokenizer", "GPT2Tokenizer", "RobertaTokenizer", "PreTrainedTokenizerFast"),
)


@pytest.mark.parametrize("is_json", [True, False], ids=["tokenizer.json", "classic"])
@pytest.mark.parametrize("changes", CONFIGS)
@pytest.mark.parametrize("name", KNOWN)
def test_what_tokkit_reads_itself_is_what_transformers_makes(
    tmp_path: Path,
    name: str,
    changes: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    is_json: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if name == "PreTrainedTokenizerFast" and not is_json:
        pytest.skip("transformers needs a tokenizer.json here")
    write_known(tmp_path, name, is_json=is_json)
    config, files = CONFIGS[changes]
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": name, **config})
    for file, content in files.items():
        write_json(tmp_path / file, content)
    other = theirs(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert_same(load_tokenizer(tmp_path), other)
    takes_all = name in ("ConvBertTokenizer", "PreTrainedTokenizerFast")
    is_bpe = name in ("GPT2Tokenizer", "RobertaTokenizer")
    is_other = is_json and not takes_all and (is_bpe or changes != "cased")
    assert ("otherwise than this file says" in caplog.text) == is_other


VOCAB = "".join(f"{token}\n" for token in TINY_VOCAB)


@pytest.mark.parametrize(
    ("config", "file", "line"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, "vocab.txt", "needs MeCab"),
        ({"tokenizer_class": "CpmTokenizer"}, "spiece.model", "needs jieba"),
        ({"tokenizer_class": "RoFormerTokenizerFast"}, "vocab.txt", "needs jieba"),
        ({"tokenizer_class": "XLMTokenizer"}, "vocab.json", "needs Moses"),
        ({"tokenizer_class": "CanineTokenizer"}, "none.txt", "runs in Python"),
        ({"tokenizer_class": "RagTokenizer"}, "vocab.txt", "RagTokenizer runs in Python"),
        ({"tokenizer_class": "NoSuchTokenizer"}, "vocab.txt", "cannot load NoSuchTokenizer"),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "none.txt", "does not read the vocabulary"),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, "vocab.txt", "does not read the vocabulary"),
        ({"tokenizer_class": "BertTokenizer"}, "spiece.model", "cannot load BertTokenizer"),
        (
            {"tokenizer_class": "MyTokenizer", "auto_map": {"AutoTokenizer": ["x.A", None]}},
            *("vocab.txt", "code of its own"),
        ),
    ],
    ids=str,
)
def test_a_folder_that_nothing_reads_right_is_refused_in_one_line(
    tmp_path: Path, config: dict[str, Any], file: str, line: str
) -> None:
    write_json(tmp_path / "tokenizer_config.json", config)
    content = spm_model() if file.endswith(".model") else VOCAB.encode()
    (tmp_path / file).write_bytes(b"{}" if file.endswith(".json") else content)
    (tmp_path / "x.py").write_text("raise SystemExit('code of the folder')")
    with pytest.raises(TokkitError) as caught:
        load_tokenizer(tmp_path)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_transformers_the_line_names_the_extra_and_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TokkitError, match=r"make T5Tokenizer; pip install 'tokkit\[hub\]'$"):
        load_tokenizer(write_class(tmp_path / "t5", "T5Tokenizer"))
    write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "MPNetTokenizer"})
    path = write_json(tmp_path / "tokenizer.json", wordpiece_json())
    with pytest.raises(
        TokkitError, match=r"or name its tokenizer\.json, which is then taken as it is"
    ):
        load_tokenizer(tmp_path)
    assert load_tokenizer(path).tokens == TINY_VOCAB
