"""JSON lines: fields, ids, languages, and lines that are no records."""

import gzip
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from corpusfiles import read_corpus
from hypothesis import given
from hypothesis import strategies as st

from tokkit.errors import TokkitError

GOOD = '{"text": "good"}\n'


@given(
    texts=st.lists(st.text(st.sampled_from('a\n\r \té語😀\x00\u2028\\"')).filter(str.strip)),
    ascii_only=st.booleans(),
    unit_bytes=st.integers(20, 200),
    batch_bytes=st.integers(1, 200),
)
def test_texts_are_those_of_the_records_in_any_units_and_batches(
    tmp_path_factory: pytest.TempPathFactory,
    texts: list[str],
    ascii_only: bool,
    unit_bytes: int,
    batch_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("records") / "a.jsonl"
    lines = [json.dumps({"id": 7, "text": text}, ensure_ascii=ascii_only) for text in texts]
    path.write_text("".join(line + "\n" for line in lines), newline="")

    by_id = read_corpus(path, unit_bytes=unit_bytes, batch_bytes=batch_bytes)
    by_position = read_corpus(path, batch_bytes=batch_bytes, id_field="none")

    assert by_id.texts == by_position.texts == texts
    assert by_id.names == ["7"] * len(texts)
    assert by_id.bytes_read == path.stat().st_size
    data = path.read_bytes()
    for name, line in zip(by_position.names, lines, strict=True):
        start = int(name.removeprefix(f"{path}:"))
        assert data[start:].startswith(line.encode())


def test_fields_name_text_id_and_language(tmp_path: Path) -> None:
    records: list[dict[str, Any]] = [
        {"body": "string", "key": "k1", "lang": "de"},
        {"body": "number", "key": 12345678901234567890, "lang": None},
        {"body": "float", "key": 1.50, "lang": ""},
        {"body": "none"},
        {"body": "empty", "key": "", "lang": 5},
        {"body": "other", "key": {"a": 1}, "lang": "fr"},
        {"body": "true", "key": True},
    ]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(record) for record in records]
    path.write_text("\n".join(lines).replace("1.5", "1.50"))

    corpus = read_corpus(path, text_field="body", id_field="key", language_field="lang")

    assert corpus.texts == [record["body"] for record in records]
    assert corpus.names[:3] == ["k1", "12345678901234567890", "1.50"]
    assert all(name.startswith(f"{path}:") for name in corpus.names[3:])
    assert corpus.languages == ["de", None, None, None, "5", "fr", None]


def test_records_without_text_are_dropped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"title": "x"}\n{"text": null}\n{"text": 5}\n{"text": [1]}\n{"text": true}\n\n'
        '{"text": ""}\n{"text": " \\r\\n"}\n  \n' + GOOD + '{"text": null}'
    )
    for batch_bytes in (1, 1 << 20):
        corpus = read_corpus(path, batch_bytes=batch_bytes)
        assert corpus.texts == ["good"]
        assert corpus.dropped == {
            "no text field": 1,
            "null text": 2,
            "text is not a string": 3,
            "empty": 4,
        }


@pytest.mark.parametrize("data", ["", "\n", "\ufeff"])
def test_a_file_without_records_counts_as_empty(tmp_path: Path, data: str) -> None:
    (tmp_path / "a.jsonl").write_text(data)
    assert read_corpus(tmp_path).dropped == {"empty": 1}


def test_line_ends_marks_and_spaces_around_make_no_difference(tmp_path: Path) -> None:
    lines = ['{"text": "a\\r\\nb\\rc\\n"}', ' {"text": "d"} ', '\t{"id": 3, "text": "e"}']
    for end in ("\n", "\r\n", "\r"):
        path = tmp_path / "a.jsonl"
        path.write_bytes(("\ufeff" + end.join(lines)).encode())
        assert read_corpus(path, batch_bytes=8).texts == ["a\r\nb\rc\n", "d", "e"]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ('{"text": "cut', r"broken JSON at column 10 \(Unterminated string"),
        ('{"text": "a"} x', r"broken JSON at column 15 \(Extra data"),
        ('{"text": "a\tb"}', "broken JSON at column 12"),
        ("not json", "broken JSON at column 1 "),
        ("[" * 100_000, "broken JSON"),
        ('["a"]', "an array, not an object"),
        ('"a"', "a string, not an object"),
        ("5", "a number, not an object"),
        ("null", "null, not an object"),
        ("false", "true or false, not an object"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_that_is_no_object_is_reported_with_its_number(
    tmp_path: Path, line: str, fault: str, end: str
) -> None:
    """In units and batches of any size, and with empty lines between."""
    path = tmp_path / "a.jsonl"
    text = GOOD * 50 + "\n\n" + GOOD * 50 + line + "\n" + GOOD
    path.write_bytes(text.replace("\n", end).encode())
    for unit_bytes, batch_bytes in ((1 << 20, 1 << 20), (300, 64), (1 << 20, 64)):
        with pytest.raises(TokkitError, match=f"a.jsonl, line 103: {fault}") as caught:
            read_corpus(path, unit_bytes=unit_bytes, batch_bytes=batch_bytes)
        assert "\n" not in str(caught.value)
        assert "correct or remove the line" in str(caught.value)


def test_the_line_number_is_reported_for_compressed_files_and_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (GOOD * 9 + "broken\n").encode()
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(data))
    with pytest.raises(TokkitError, match=r"a.jsonl.gz, line 10: broken"):
        read_corpus(path, batch_bytes=32)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(TokkitError, match="stdin, line 10: broken"):
        read_corpus("-", format="jsonl", batch_bytes=32)


def test_plain_text_named_jsonl_is_refused_with_the_option_that_reads_it(tmp_path: Path) -> None:
    for text in ("Once upon a time", '"text"', "{curly}"):
        (tmp_path / "a.jsonl").write_text(text)
        with pytest.raises(TokkitError, match=r"line 1: .*, or pass --format text"):
            read_corpus(tmp_path)


def test_huge_numbers_and_repeated_fields_are_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "a", "n": {"1" * 5000}, "e": 1e999, "text": "b"}}\n')
    assert read_corpus(path).texts == ["b"]


def test_invalid_utf8_in_a_record(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD.encode() + b'{"text": "b\xffd", "id": "1"}\n' + GOOD.encode())
    with pytest.raises(TokkitError, match=r"invalid UTF-8 at byte 28, in the document that .* 17;"):
        read_corpus(path)
    replaced = read_corpus(path, errors="replace")
    assert replaced.texts == ["good", "b\ufffdd", "good"]
    assert replaced.replaced == 1
    skipped = read_corpus(path, errors="skip")
    assert skipped.texts == ["good", "good"]
    assert skipped.dropped == {"invalid UTF-8": 1}


def test_a_lone_surrogate_is_treated_as_invalid_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        GOOD + '{"text": "b\\ud800d \\ud83d\\ude00", "id": "\\udc00x"}\n{"text": "\\\\ud800"}\n'
    )
    with pytest.raises(TokkitError, match=r"a.jsonl, line 2: .* byte 17 has a lone surrogate"):
        read_corpus(path)
    replaced = read_corpus(path, errors="replace")
    assert replaced.texts == ["good", "b\ufffdd 😀", "\\ud800"]
    assert replaced.names[1] == "\ufffdx"
    assert replaced.replaced == 1
    skipped = read_corpus(path, errors="skip")
    assert skipped.texts == ["good", "\\ud800"]
    assert skipped.dropped == {"invalid UTF-8": 1}


def test_real_records(shared: Path) -> None:
    path = shared / "corpora" / "zh-poetry" / "tang-poems.jsonl"
    records = [json.loads(line) for line in path.read_text().split("\n") if line]
    corpus = read_corpus(path, unit_bytes=100_000, batch_bytes=10_000)
    assert corpus.texts == [record["text"].removesuffix("\n") for record in records]
    assert corpus.num_units > 20
    articles = shared / "corpora" / "en-enwiki" / "enwiki-wikitext.jsonl"
    assert len(read_corpus(articles, id_field="title").names) == 106


@given(
    texts=st.lists(st.text(st.sampled_from('a\n,[]{}"\\é '), max_size=9), min_size=1),
    layout=st.sampled_from(["array", "lines of an array", "pretty", "member", "later", "objects"]),
    batch_bytes=st.integers(1, 100),
)
def test_json_of_any_layout_holds_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], layout: str, batch_bytes: int
) -> None:
    records = [{"text": text, "more": {"list": [text, 1]}} for text in texts]
    written = {
        "array": json.dumps(records),
        "lines of an array": "[\n" + ",\r\n".join(map(json.dumps, records)) + "\n]\n",
        "pretty": "\ufeff" + json.dumps(records, indent=2),
        "member": json.dumps({"version": "1.0 [", "count": 5, "data": records, "end": "]"}),
        "later": json.dumps({"info": {"by": "x}", "n": 1}, "tags": ["a", 2], "data": records}),
        "objects": "\n".join(json.dumps(record, indent=1) for record in records),
    }[layout]
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(written, newline="")
    lines = path.with_name("a.jsonl")
    lines.write_text("\n".join(map(json.dumps, records)))

    corpus = read_corpus(path, batch_bytes=batch_bytes)

    assert corpus.texts == read_corpus(lines).texts
    assert corpus.dropped == read_corpus(lines).dropped
    assert corpus.bytes_read == path.stat().st_size
    data = path.read_bytes()
    for name, text in zip(corpus.names, corpus.texts, strict=True):
        record = data[int(name.removeprefix(f"{path}:")) :].decode()
        match = re.search(r'\{\s*"text"', record)
        assert match is not None
        found, _ = json.JSONDecoder().raw_decode(record, match.start())
        assert found["text"] == text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"text": "a"}, {"text": "b"}', "the JSON array does not end; the file is truncated"),
        ('{"data": [{"text": "a"}', "the JSON array does not end"),
        ('{"i": {"j": {}}, "d": [{"text": "a"}]}', "an array of objects in 'd'.* jq -c '.d"),
        ('[{"text": "a"}, {"te', "record 2: broken JSON at column|the JSON array does not end"),
        ('[{"text": "a"}] x', "record 1: broken JSON"),
        ('[{"text": "a"}, 5]', "record 2: a number, not an object"),
        ('["a", "b"]', "record 1: a string, not an object"),
        ('{"train": [{"text": "a"}], "test": [{"text": "b"}]}', "more than one array.* jq -c"),
        ('{"text": "a", "tags": [{"text": "b"}]}', 'object with "text" and .*--format jsonl'),
        ('{\n"tags": [{"text": "b"}], "text": "a"}', 'object with "text" and .*--format jsonl'),
        ('{"text": "a"} is JSON\n', "line 1: broken JSON .*--format text"),
    ],
)
def test_json_that_is_no_list_of_records_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "a.json").write_text(text)
    for batch_bytes in (1, 1 << 20):
        with pytest.raises(TokkitError, match=fault):
            read_corpus(tmp_path, batch_bytes=batch_bytes)


def test_names_with_dots_lead_into_records(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"meta": {"text": "inner", "id": 1}}\n{"meta": {"text": null}}\n{"meta": "no object"}\n'
        '{"meta.text": "literal", "meta": {"text": "inner"}}\n{"meta": {"a.b": {"c": "x"}}}\n'
    )
    corpus = read_corpus(path, text_field="meta.text", id_field="meta.id")
    assert corpus.texts == ["inner", "literal"]
    assert corpus.names[0] == "1"
    assert corpus.dropped == {"null text": 1, "no text field": 2}
    assert read_corpus(path, text_field="meta.a.b.c").texts == []


def test_a_list_of_strings_is_a_text_with_a_line_for_each(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": ["A.", "B\\r\\nb."]}\n{"text": []}\n{"text": ["a", null]}\n')
    corpus = read_corpus(path)
    assert corpus.texts == ["A.\nB b.", "a\n"]
    assert corpus.dropped == {"empty": 1}


def test_several_fields_are_joined_by_a_blank_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"title": "T", "abstract": "A"}\n{"title": "", "abstract": "B"}\n{"abstract": "C"}\n'
        '{"title": "D", "abstract": null}\n{"title": null}\n{}\n{"title": "E", "abstract": 5}\n'
        '{"title": " "}\n'
    )
    corpus = read_corpus(path, text_field=("title", "abstract"))
    assert corpus.texts == ["T\n\nA", "B", "C", "D"]
    expected = {"null text": 1, "no text field": 1, "text is not a string": 1, "empty": 1}
    assert corpus.dropped == expected
