"""Errors of commands advise what works: each row fails, does what the line says, and succeeds."""

import shutil
from pathlib import Path

import pytest
from commandremedies import Row, follow

ENCODE = "encode in -t tokenizer -o out"
BUILD = "build tokens -o out --max-seq-length 16"
PARTS = f"{ENCODE} --unit-bytes 1024"
TRAIN = "train in -o out --vocab-size 24 --held-out 0"
RECIPE = 'output = "made"\n[corpus]\ninputs = ["in"]\n[train]\nvocab-size = 24\n[encode]\n'
RECIPE += "[build]\nmax-seq-length = 16\n"
ONE = {"one.txt": "The cat sat on the mat. A mat."}
LINE = "the cat sat on a mat on the mat\n"
SIDES = {"a.txt": LINE * 2, "b.txt": LINE, "c.txt": LINE * 2}
SIDE = "encode {0}.txt -t tokenizer -o {0} --documents line"
PAIRS = "build a --targets {} -o out --objective translation --max-seq-length 16"

ROWS: list[Row] = [
    # inspect and report
    (
        {},
        ["inspect tokens/shard-0000000.arrow --shard a"],
        "is a shard itself; leave out --shard",
        {},
        ["inspect tokens/shard-0000000.arrow"],
    ),
    (
        {},
        ["inspect trained --shard a"],
        "a tokenizer has no shards; leave out --shard",
        {},
        ["inspect trained"],
    ),
    (
        {},
        ["inspect trained --grep a --longest"],
        "has no rows to search; leave out --grep, --source and --longest",
        {},
        ["inspect trained"],
    ),
    (
        {},
        ["inspect tokens --json --rows 2"],
        "with --json, which has no rows; leave them out",
        {},
        ["inspect tokens --json", "inspect tokens --rows 2"],
    ),
    (
        {},
        ["inspect instances --replay --phase 0"],
        "--phase requires a run; leave it out",
        {},
        ["inspect instances --replay"],
    ),
    (
        {},
        ["inspect instances --source a"],
        "leave out --source, or look into the token folder",
        {},
        ["inspect instances", "inspect tokens --source a"],
    ),
    (
        {},
        ["report instances -o out --text in"],
        "without a tokenizer folder; leave them out",
        {},
        ["report instances -o out", "report trained -o other --text in"],
    ),
    (
        {},
        ["report in/a.txt -o out"],
        "is a file; name the folder that a stage wrote",
        {},
        ["report tokens -o out"],
    ),
    # outputs
    (
        {"out": "a file"},
        [ENCODE],
        "is a file; choose another folder",
        {},
        [ENCODE.replace("out", "other")],
    ),
    (
        {"out/a": "a file"},
        [ENCODE],
        "and not made by tokkit; choose another folder",
        {},
        [ENCODE.replace("out", "other")],
    ),
    (
        {},
        ["encode in -t tokenizer -o ."],
        "is or contains the input {}; write to another path",
        {},
        [ENCODE],
    ),
    (
        {},
        ["encode in -t tokenizer -o in/out"],
        "would read it; choose a path outside",
        {},
        [ENCODE],
    ),
    ({}, ["encode in -t tokenizer -o hf://a"], "name a local path, or one on", {}, [ENCODE]),
    # array jobs
    (
        {},
        [PARTS + " --part 0/2"],
        "run the same command with --plan first",
        {},
        [PARTS + " --plan", PARTS + " --part 0/2"],
    ),
    (
        {},
        [PARTS + " --plan", PARTS + " --part 0/2 --sentences lines"],
        "; pass the options of the plan,",
        {},
        [PARTS + " --part 0/2"],
    ),
    (
        {},
        [PARTS + " --plan", PARTS + " --part 0/2 --sentences lines"],
        "or plan again with --plan --overwrite",
        {},
        [PARTS + " --sentences lines --plan --overwrite", PARTS + " --sentences lines --part 0/2"],
    ),
    (
        {},
        [PARTS + " --plan", PARTS + " --part 0/2", PARTS + " --commit"],
        "run the parts that --missing prints",
        {},
        [PARTS + " --missing 2", PARTS + " --part 1/2", PARTS + " --commit"],
    ),
    (
        {},
        [PARTS + " --plan", PARTS + " --part 0/2", PARTS + " --commit"],
        "or the command without --commit",
        {},
        [PARTS],
    ),
    (
        {},
        [PARTS + " --plan", PARTS + " --part 0/2 --overwrite"],
        "--overwrite would delete what other parts have done; pass it with --plan",
        {},
        [PARTS + " --plan --overwrite"],
    ),
    (
        {},
        [PARTS + " --part auto"],
        "auto needs one of {}; pass I/N",
        {},
        [PARTS + " --plan", PARTS + " --part 0/2"],
    ),
    (
        {},
        ["encode - -t tokenizer -o out --plan"],
        "cannot be read in parts; name files instead",
        {},
        [PARTS + " --plan"],
    ),
    # train
    (
        {"w.tsv": "a\tb\t3\n"},
        ["train w.tsv -o out --format counts --vocab-size 9"],
        "write a tab within a word as \\t",
        {"w.tsv": "a\\tb\t3\na\t3\nb\t3\n"},
        ["train w.tsv -o out --format counts --vocab-size 7"],
    ),
    (
        {"w.tsv": "a\\b\t3\n"},
        ["train w.tsv -o out --format counts --vocab-size 9"],
        "write a backslash as \\\\",
        {"w.tsv": "a\\\\b\t3\n"},
        ["train w.tsv -o out --format counts --vocab-size 8"],
    ),
    (
        {"w.tsv": "a" * 99},
        ["train w.tsv -o out --format counts --vocab-size 6 --max-document-bytes 9"],
        "raise --max-document-bytes",
        {"w.tsv": "a" * 99 + "\t3"},
        ["train w.tsv -o out --format counts --vocab-size 7 --max-document-bytes 200"],
    ),
    (
        {"w.tsv": "a\t9223372036854775807\n"},
        ["train w.tsv -o out --format counts --vocab-size 6"],
        "divide all counts",
        {"w.tsv": "a\t9223\n"},
        ["train w.tsv -o out --format counts --vocab-size 6"],
    ),
    (
        {},
        [TRAIN + " --min-word-count 1000"],
        "lower --min-word-count",
        {},
        [TRAIN + " --min-word-count 5"],
    ),
    (
        {},
        [TRAIN.replace("24", "7")],
        "single characters take; raise it, or lower",
        {},
        [TRAIN],
    ),
    (
        {},
        [TRAIN.replace("24", "10")],
        "or lower --limit-alphabet",
        {},
        [TRAIN.replace("24", "10") + " --limit-alphabet 2"],
    ),
    (
        {},
        [TRAIN + " --special-token [UNK] --special-token cat"],
        "add punctuation, as in ",
        {},
        [TRAIN + " --special-token [UNK] --special-token [cat]"],
    ),
    (
        {},
        [TRAIN.replace("24", "900") + " --model unigram"],
        "the corpus gives {} tokens; pass --vocab-size",
        {},
        [TRAIN.replace("24", "22") + " --model unigram"],
    ),
    (
        {},
        [TRAIN.replace("24", "7") + " --model unigram"],
        "single characters take; pass --vocab-size",
        {},
        [TRAIN.replace("24", "22") + " --model unigram"],
    ),
    # encode and build
    (
        {"e.txt": "\n"},
        ["encode e.txt -t tokenizer -o out"],
        "see --documents, --text-field and --errors",
        {"e.txt": "a cat"},
        ["encode e.txt -t tokenizer -o out"],
    ),
    (
        ONE,
        ["encode one.txt -t tokenizer -o one", "build one -o out --max-seq-length 16"],
        "split the text into documents with encode --documents line or blank-line",
        {"one.txt": "The cat sat. A cat.\nA mat. A cat."},
        [
            "encode one.txt -t tokenizer -o one --documents line --overwrite",
            "build one -o out --max-seq-length 16",
        ],
    ),
    (
        ONE,
        ["encode one.txt -t tokenizer -o one", "build one -o out --max-seq-length 16"],
        "or build with --objective sop or mlm",
        {},
        [
            "build one -o out --max-seq-length 16 --objective sop",
            "build one -o other --max-seq-length 16 --objective mlm",
        ],
    ),
    (
        {},
        [BUILD + " --eval-fraction 0.999"],
        "are needed; pass a smaller one, or 0",
        {},
        [BUILD + " --eval-fraction 0.1", BUILD + " --eval-fraction 0 --overwrite"],
    ),
    (
        ONE,
        [
            "encode one.txt -t tokenizer -o one",
            "build one -o out --max-seq-length 500 --objective clm",
        ],
        "; pass a smaller --max-seq-length",
        {},
        ["build one -o out --max-seq-length 8 --objective clm"],
    ),
    (
        SIDES,
        [SIDE.format("a"), SIDE.format("b"), PAIRS.format("b")],
        "encode with --documents line two files of as many lines",
        {},
        [SIDE.format("c"), PAIRS.format("c")],
    ),
    (
        SIDES,
        [SIDE.format("a"), SIDE.format("c").replace("tokenizer", "cased"), PAIRS.format("c")],
        "encode both sides with one",
        {},
        [SIDE.format("c") + " --overwrite", PAIRS.format("c")],
    ),
    (
        SIDES,
        [SIDE.format("a"), SIDE.format("c"), PAIRS.format("c").replace("16", "8")],
        "or more; pass a larger one",
        {},
        [PAIRS.format("c")],
    ),
    # run and the rest
    (
        {"r.toml": f'examples = ["a [MASK]"]\n{RECIPE}objective = "clm"\n[pretrain]\n'},
        ["run r.toml"],
        "fills no masks; leave out examples, or choose one of",
        {"r.toml": RECIPE},
        ["run r.toml --until encode"],
    ),
    (
        {"r.toml": f'examples = ["a [MASK]"]\n{RECIPE}'},
        ["run r.toml"],
        "have no effect without a [pretrain] table; leave them out",
        {"r.toml": RECIPE},
        ["run r.toml --until train"],
    ),
    (
        {"r.toml": RECIPE + "[pretrain]\n"},
        ["run r.toml --from pretrain --workers 1"],
        "{} has no effect on {}; leave it out",
        {},
        ["run r.toml --until train --workers 0"],
    ),
    ({}, ["help nothing"], "; choose one of {}, or a command", {}, ["help formats", "help encode"]),
    (
        {"r.toml": "a"},
        ["init r.toml --from-folder in"],
        "already exists; pass --overwrite to replace it",
        {},
        ["init r.toml --from-folder in --overwrite"],
    ),
    (
        {},
        [
            "encode in -t tokenizer -o one --sentences none",
            "build one -o out --single-sentence drop",
        ],
        "pass --single-sentence random, or ",
        {},
        ["build one -o out --single-sentence random"],
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[2] for row in ROWS])
def test_commands_succeed_after_their_remedy(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))
    follow(row)
