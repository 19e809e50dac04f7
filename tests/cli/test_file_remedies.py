"""Errors about files and limits advise what works: each row fails, does as the line says, and succeeds."""

import shutil
from pathlib import Path

import pytest
from commandremedies import Row, follow

ENCODE = "encode in -t tokenizer -o out"
BUILD = "build tokens -o out --max-seq-length 16"
TRAIN = "train in -o out --vocab-size 24 --held-out 0"
LEARN = "train p.txt -o out --model bpe --metaspace --vocab-size 10 --held-out 0 --overwrite"
LEARN += " --special-token '<unk>'"
RECIPE = 'output = "made"\n[corpus]\ninputs = ["in"]\n[train]\nvocab-size = 24\n'
LINE = "the cat sat on a mat on the mat\n"

ROWS: list[Row] = [
    (
        {},
        [
            "cp tokens/shard-0000000.arrow tokens/shard-0000009.arrow",
            "inspect tokens/shard-0000009.arrow --grep cat",
        ],
        "is not in the manifest of its folder; remove it",
        {},
        ["rm tokens/shard-0000009.arrow", "inspect tokens --grep cat"],
    ),
    (
        {"tokens/tokenizer/vocab.txt": "[PAD]\n"},
        ["verify tokens"],
        "contradicts tokenizer.json, which tokkit reads; remove it, or recreate",
        {},
        ["rm tokens/tokenizer/vocab.txt", "verify tokens"],
    ),
    (
        {},
        ["mkfifo fifo", "report tokens -o fifo"],
        "not a regular file, so it is not overwritten; choose another path",
        {},
        ["report tokens -o out.html"],
    ),
    # files
    (
        {},
        ["ln -s loop loop", "encode loop -t tokenizer -o out"],
        "a link that leads to itself; correct or remove it",
        {},
        ["ln -sfn in loop", "encode loop -t tokenizer -o out"],
    ),
    (
        {},
        ["ln -s nowhere out", ENCODE],
        "a file or a link to nothing is there; remove it, or choose another name",
        {},
        [ENCODE.replace("out", "other"), "rm out", ENCODE],
    ),
    (
        {},
        ["ln -s nowhere out", "report tokens -o out"],
        "out: a file or a link to nothing is there; remove it",
        {},
        ["rm out", "report tokens -o out"],
    ),
    (
        {},
        ["ln -s nowhere in/c.txt", "encode in/c.txt -t tokenizer -o out"],
        ": a link to {}, which does not exist; restore the file, or remove the link",
        {},
        ["cp in/a.txt in/nowhere", "encode in/c.txt -t tokenizer -o out"],
    ),
    (
        {},
        [
            "mv tokens/shard-0000000.arrow shard",
            "ln -s ../shard tokens/shard-0000000.arrow",
            BUILD,
        ],
        "is a link to a file outside the folder; replace it with a copy of the file",
        {},
        ["rm tokens/shard-0000000.arrow", "cp shard tokens/shard-0000000.arrow", BUILD],
    ),
    (
        {},
        ["rm trained/training.json", "encode in -t trained -o out"],
        "unfinished (it has no {}); run the same tokkit train again",
        {},
        ["train in -o trained --vocab-size 24 --held-out 0", "encode in -t trained -o out"],
    ),
    (
        {},
        ["sed -i s/tokens/other/ tokens/manifest.json", "verify tokens"],
        ": its kind is {}, not one of {}; recreate the folder",
        {},
        [ENCODE.replace("out", "tokens") + " --overwrite", "verify tokens"],
    ),
    (
        {"many/\udcff.txt": LINE},
        ["encode many -t tokenizer -o out --plan"],
        "is not valid UTF-8; give it another name",
        {},
        ["mv many/\udcff.txt many/a.txt", "encode many -t tokenizer -o out --plan"],
    ),
    (
        {"\udcff/a.txt": LINE},
        ["init r.toml --from-folder \udcff"],
        ": is not UTF-8, as a recipe must be; rename it",
        {},
        ["mv \udcff many", "init r.toml --from-folder many"],
    ),
    (
        {"r.toml": "#" * (1 << 20) + "\n"},
        ["run r.toml"],
        "bytes, which no such file has; name another, or restore it",
        {"r.toml": RECIPE},
        ["run r.toml --until train"],
    ),
    (
        {"p.txt": "<s><s> <s><s><s>\n" * 50},
        [LEARN + " --special-token '<s>'"],
        "the corpus contains {} so often that it would be learned as an ordinary token; remove it",
        {"q.txt": "ab\n" * 50},
        [LEARN + " --special-token '</s>'", LEARN.replace("p.txt", "q.txt").replace("10", "5")],
    ),
    # tokenize
    (
        {"long": "a " * (1 << 21) + "\n"},
        ["tokenize -t tokenizer < long"],
        "standard input: more than {} bytes; pass a part, or encode a corpus of it with",
        {"short": "a cat"},
        ["tokenize -t tokenizer < short", "encode long -t tokenizer -o out"],
    ),
    (
        {"text": "a \udcff"},
        ["tokenize -t tokenizer < text"],
        "standard input, byte {}: invalid UTF-8; convert it to UTF-8",
        {"text": "a ÿ"},
        ["tokenize -t tokenizer < text"],
    ),
]
# Limits, and rows that go beyond them, before and after the remedy.
LIMITED: list[tuple[str, int, Row]] = [
    (
        "tokkit.instances.build_plan.MAX_DOCUMENTS",
        50,
        (
            {},
            [BUILD],
            "documents, more than {}; split the corpus into several token folders",
            {},
            [
                step
                for name in "ab"
                for step in (
                    f"encode in/{name}.txt -t tokenizer -o {name}",
                    f"build {name} -o of-{name} --max-seq-length 16",
                )
            ],
        ),
    ),
    (
        "tokkit.vocab.counting._BYTES_PER_BYTE",
        1 << 24,
        (
            {},
            [TRAIN + " --memory 64MB"],
            "distinct words takes about {} MB, more than --memory; raise it",
            {},
            [TRAIN + " --memory 10GB"],
        ),
    ),
    (
        "tokkit.vocab.counting._BYTES_PER_BYTE",
        1 << 24,
        (
            {"w.tsv": "a\t9\nb\t9\nabababababab\t1\n"},
            ["train w.tsv -o out --format counts --vocab-size 7 --memory 64MB"],
            "or leave out rare words with --min-word-count 2",
            {},
            ["train w.tsv -o out --format counts --vocab-size 7 --memory 64MB --min-word-count 2"],
        ),
    ),
    (
        "tokkit.vocab.trainers._LARGEST",
        12,
        (
            {"w.tsv": "a\t9\nb\t9\nabababababab\t1\n"},
            ["train w.tsv -o out --format counts --vocab-size 7"],
            "bytes, more than can be learned from; pass --min-word-count ",
            {},
            ["train w.tsv -o out --format counts --vocab-size 7 --min-word-count 2"],
        ),
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[2] for row in ROWS])
def test_commands_succeed_with_other_files(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))
    follow(row)


@pytest.mark.parametrize("limited", LIMITED, ids=[row[2][2] for row in LIMITED])
def test_commands_succeed_within_a_limit(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: tuple[str, int, Row]
) -> None:
    name, limit, row = limited
    monkeypatch.setattr(name, limit)
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))
    follow(row)
