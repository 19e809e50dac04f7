"""Recipes are read as the command line is, and what they cannot hold is refused by name."""

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

import pytest
from click.testing import CliRunner
from tinytokenizers import write_bpe

from tokkit.cli import cli
from tokkit.cli.recipe import read_recipe
from tokkit.cli.run import check_examples, choose_stages, make_config
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import TokkitError, UsageError
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.vocab.train_config import BERT_SPECIAL_TOKENS, TrainConfig

GOOD = """
output = "work"
examples = ["The [MASK] is empty."]

[corpus]
inputs = ["a.txt", "b/*.gz"]
documents = "line"

[train]
vocab-size = 500
special-token = ["[UNK]", "[CLS]"]
cased = true

[encode]
sentences = "lines"
workers = 3

[build]
max-seq-length = 64
masking = "static"

[pretrain]
preset = "tiny"
max-steps = 7
learning-rate = 1e-3
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


def test_tables_become_the_configs_of_the_command_line(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert tuple(recipe.tables) == ("train", "encode", "build", "pretrain")
    inputs = ("a.txt", "b/*.gz")
    work = Path("work")
    assert [make_config(recipe, stage, {}) for stage in recipe.tables] == [
        TrainConfig(
            inputs=inputs,
            documents="line",
            output=work / "tokenizer",
            vocab_size=500,
            special_tokens=("[UNK]", "[CLS]"),
            cased=True,
        ),
        EncodeConfig(
            inputs=inputs,
            documents="line",
            tokenizer=work / "tokenizer",
            output=work / "tokens",
            sentences="lines",
            workers=3,
        ),
        BuildConfig(
            tokens=work / "tokens", output=work / "instances", max_seq_length=64, masking="static"
        ),
        PretrainConfig(
            instances=(work / "instances",),
            output=work / "run",
            preset="tiny",
            max_steps=7,
            learning_rate=1e-3,
        ),
    ]


def test_the_command_line_overrides_the_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    common = {"workers": 1, "overwrite": True, "progress": False}
    encode = make_config(recipe, "encode", common)
    assert isinstance(encode, EncodeConfig)
    assert (encode.workers, encode.overwrite, encode.progress) == (1, True, False)
    pretrain = make_config(recipe, "pretrain", common)  # which has no workers
    assert isinstance(pretrain, PretrainConfig)
    assert pretrain.overwrite


def test_a_command_makes_the_corpus(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, '[corpus]\ncommand = "cat x"\nfile = "x.jsonl"\n[train]\n')
    )
    assert tuple(recipe.tables) == ("corpus", "train", "encode", "build")
    assert recipe.inputs == ("recipe/corpus/x.jsonl",)


def test_a_published_tokenizer_takes_the_place_of_training(tmp_path: Path) -> None:
    recipe = read_recipe(
        write(tmp_path, '[corpus]\ninputs = ["a.txt"]\n[encode]\ntokenizer = "vocab.txt"\n')
    )
    assert tuple(recipe.tables) == ("encode", "build")
    config = make_config(recipe, "encode", {})
    assert isinstance(config, EncodeConfig)
    assert config.tokenizer == Path("vocab.txt")


def test_from_and_until_choose_stages(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, GOOD))
    assert choose_stages(recipe, None, None) == ("train", "encode", "build", "pretrain")
    assert choose_stages(recipe, "encode", "build") == ("encode", "build")
    with pytest.raises(UsageError, match="no stage from build until train"):
        choose_stages(recipe, "build", "train")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("= 1", "not valid TOML"),
        ("surprise = 1", "unknown key 'surprise'"),
        ("train = 1", r"train must be a table, written \[train\]"),
        ("[train]", "needs either inputs or a command"),
        ('[corpus]\ninputs = ["a"]\ncommand = "b"\n[train]', "needs either inputs or a command"),
        ('[corpus]\ninputs = "a"\n[train]', "inputs must be a list"),
        ('[corpus]\ncommand = "a"\nfile = "../b"\n[train]', "file must be a name without"),
        ('[corpus]\ninputs = ["a"]\nmystery = 1\n[train]', "unknown key 'mystery'"),
        ('[corpus]\ninputs = ["a"]', r"needs either a \[train\] table or a tok"),
        ('[corpus]\ninputs = ["-"]\n[train]', "two stages cannot read standard input"),
        ('[corpus]\ninputs = ["a"]\n[train]\n[encode]\ntokenizer = "t"', "needs either a"),
        ("output = 1\n[train]", "output must be a string"),
        ('[corpus]\ninputs = ["a"]\nfile = "b"\n[train]', "file has no effect without a command"),
        (
            'examples = ["a [MASK]"]\n[corpus]\ninputs = ["a"]\n[train]',
            r"examples have no effect without a \[pretrain\] table",
        ),
        ('examples = ["a [MASK]", 1]\n[corpus]\ninputs = ["a"]\n[train]', "must be a list of sent"),
        (
            'examples = ["a [MASK]"]\n[corpus]\ninputs = ["a"]\n[train]\n[build]\nobjective = "clm"',
            "a model of objective clm fills no masks; leave out examples",
        ),
    ],
)
def test_an_invalid_recipe_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    with pytest.raises(TokkitError, match=fault):
        read_recipe(write(tmp_path, text))


@pytest.mark.parametrize(
    ("stage", "line", "fault"),
    [
        (
            "train",
            "vocab_size = 5",
            "unknown key 'vocab_size'; known keys are byte-fallback, cased, ",
        ),
        ("train", "vocab-size = true", "vocab-size takes a value, not true"),
        ("train", 'vocab-size = "many"', "vocab-size: 'many' is not a valid integer"),
        ("train", 'cased = "yes"', 'cased takes true or false, not "yes"'),
        ("train", 'special-token = "x"', 'special-token takes a list, not "x"'),
        ("train", "json = true", "unknown key 'json'"),
        ("train", 'output = "elsewhere"', "unknown key 'output'"),
        ("train", "overwrite = true", "unknown key 'overwrite'"),
        ("build", "max-seq-length = [1]", r"max-seq-length takes one value, not \[1\]"),
        ("build", "max-seq-length = 3", "max-seq-length: 3 is not in the range 8<=x<=65535"),
        ("build", 'masking = "sometimes"', "masking: 'sometimes' is not one of"),
    ],
)
def test_an_unknown_key_or_a_wrong_value_is_refused(
    tmp_path: Path, stage: str, line: str, fault: str
) -> None:
    text = '[corpus]\ninputs = ["a"]\n[train]\n'
    text = text + line if stage == "train" else f"{text}[{stage}]\n{line}"
    recipe = read_recipe(write(tmp_path, text))
    with pytest.raises(UsageError, match=fault):
        make_config(recipe, stage, {})


def test_a_missing_recipe_is_reported(tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match="no such file"):
        read_recipe(tmp_path / "none.toml")


def test_the_shipped_recipes_are_valid() -> None:
    for path in (Path(__file__).resolve().parents[2] / "corpora").glob("*.toml"):
        recipe = read_recipe(path)
        for stage in recipe.tables:
            if stage != "corpus":
                make_config(recipe, stage, {})


ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


@pytest.mark.parametrize(
    ("special", "examples", "fault"),
    [
        (list(BERT_SPECIAL_TOKENS), ["a [MASK]"], None),
        (
            list(BERT_SPECIAL_TOKENS),
            ["a [MASK]", "a <mask>"],
            "'a <mask>': has no \\[MASK\\] to predict",
        ),
        (ROBERTA, ["a <mask>", "[MASK] a"], None),
        (ROBERTA, ["a"], r"'a': has no \[MASK\] or <mask> to predict"),
        (["[UNK]"], ["a [MASK]"], r"examples need \[MASK\] or <mask> among special-token"),
    ],
)
def test_examples_are_checked_before_the_tokenizer_is_trained(
    tmp_path: Path, special: list[str], examples: list[str], fault: str | None
) -> None:
    recipe = read_recipe(
        write(
            tmp_path,
            f"examples = {json.dumps(examples)}\n[corpus]\ninputs = ['a']\n"
            f"[train]\nmodel = 'bpe'\nspecial-token = {json.dumps(special)}\n[pretrain]\n",
        )
    )
    with nullcontext() if fault is None else pytest.raises(UsageError, match=fault):
        check_examples(recipe, recipe.tables)


def test_examples_are_checked_with_the_tokenizer_that_is_there(tmp_path: Path) -> None:
    """Before any stage with the one that the recipe names, later with that of the instances."""
    named = write_bpe(tmp_path / "named", [], tuple(ROBERTA))
    text = (
        "output = '{}'\nexamples = ['{}']\n[corpus]\ninputs = ['a']\n"
        "[encode]\ntokenizer = '{}'\n[pretrain]\n"
    )
    output = tmp_path / "work"
    for example in ("a <mask>", "a [MASK]"):
        recipe = read_recipe(write(tmp_path, text.format(output, example, named)))
        check_examples(recipe, recipe.tables)
    wrong = read_recipe(write(tmp_path, text.format(output, "a <MASK>", named)))
    with pytest.raises(UsageError, match="'a <MASK>': has no "):
        check_examples(wrong, wrong.tables)
    check_examples(wrong, ("pretrain",))  # there are no instances
    shutil.copytree(named, output / "instances" / "tokenizer")
    with pytest.raises(UsageError, match="'a <MASK>': has no "):
        check_examples(wrong, ("pretrain",))
    unmasked = write_bpe(tmp_path / "unmasked", [], ("<s>", "</s>"))
    recipe = read_recipe(write(tmp_path, text.format(output, "a [MASK]", unmasked)))
    with pytest.raises(TokkitError, match=r"<mask>"):
        check_examples(recipe, recipe.tables)


def test_no_stage_runs_before_examples_are_checked(tmp_path: Path) -> None:
    text = "[corpus]\ninputs = ['missing.txt']\n[train]\n[pretrain]\n"
    recipe = write(tmp_path, f"output = '{tmp_path / 'work'}'\nexamples = ['a']\n{text}")
    result = CliRunner().invoke(cli, ["run", str(recipe)])
    assert isinstance(result.exception, UsageError)
    assert "'a': has no [MASK] to predict" in str(result.exception)
    assert not (tmp_path / "work").exists()


def test_workers_without_a_stage_that_has_some_are_refused(tmp_path: Path) -> None:
    recipe = write(tmp_path, GOOD)
    result = CliRunner().invoke(cli, ["run", str(recipe), "--from", "pretrain", "--workers", "2"])
    assert isinstance(result.exception, UsageError)
    assert "--workers has no effect on pretrain" in str(result.exception)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ("[[pretrain.phases]]\nshare = 1.0\ninstances = ['none']", "none: no such folder"),
        ("init-from = 'no/such/model'", "no/such/model"),
        ("decay-from = 'none'\ndecay-steps = 2", "none: is neither a run folder nor"),
        ("architecture = 'gpt2'", "--architecture gpt2 learns from clm, but"),
        (
            "architecture = 'modernbert'",
            "has windows of 128 tokens, but the instances have at most 64",
        ),
    ],
)
def test_what_a_run_lacks_is_refused_before_the_corpus_is_read(
    tmp_path: Path, options: str, fault: str
) -> None:
    (tmp_path / "corpus.txt").write_text("not read")
    text = f"output = '{tmp_path / 'work'}'\n[corpus]\ninputs = ['{tmp_path / 'corpus.txt'}']\n"
    text += "[train]\n[build]\nobjective = 'mlm'\nmax-seq-length = 64\n[pretrain]\n"
    result = CliRunner().invoke(cli, ["run", str(write(tmp_path, text + options))])
    assert isinstance(result.exception, TokkitError)
    assert fault in str(result.exception)
    assert not (tmp_path / "work").exists()
