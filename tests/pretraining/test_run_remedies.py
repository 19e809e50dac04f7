"""Errors about runs advise what works: each row fails, does what the line says, and succeeds."""

import shutil
from pathlib import Path

import pytest
from commandremedies import Row, follow, make_folders, make_run, succeed

from tokkit.errors import TokkitError

PRETRAIN = "pretrain instances -o out --preset tiny --max-steps 2 --dry-run --threads 1"
RESUMED = PRETRAIN.replace(" --preset tiny", "").replace("--max-steps 2", "--max-steps 4")
AGAIN = "pretrain instances -o run --preset tiny --batch-size 4 --device cpu --threads 1"

DAMAGE = """sed -i 's/"{0}": *[0-9]*/"{0}": {1}/' run/run.json"""

ROWS: list[Row] = [
    ({}, ["inspect run --shard a"], ": a {} has no shards; leave out --shard", {}, ["inspect run"]),
    ({}, ["inspect run --rows 2"], "has no rows; leave out --rows", {}, ["inspect run"]),
    (
        {},
        ["inspect run --replay --shard a"],
        "--shard has no effect with --replay; leave it out",
        {},
        ["inspect run --replay"],
    ),
    (
        {},
        ["inspect run --replay --grep a"],
        " have no effect with --replay; leave them out",
        {},
        ["inspect run --replay"],
    ),
    (
        {},
        ["inspect run --replay --seed 2"],
        "a run has its own options; leave out ",
        {},
        ["inspect run --replay", "inspect instances --replay --seed 2"],
    ),
    (
        {},
        ["inspect run --replay --phase 0"],
        "has no phases; leave out --phase",
        {},
        ["inspect run --replay"],
    ),
    (
        {},
        ["report in -o out"],
        "holds nothing that tokkit wrote; name a tokenizer, token, ",
        {},
        [f"report {name} -o {name}.html" for name in ("tokens", "instances", "run", ".")],
    ),
    (
        {},
        [PRETRAIN + " instances-sop --weights 0.5,0.5"],
        "build one of them again",
        {},
        [
            "build tokens -o instances-sop --max-seq-length 16 --eval-fraction 0.2 --overwrite",
            PRETRAIN + " instances-sop --weights 0.5,0.5",
        ],
    ),
    (
        {},
        [PRETRAIN.replace("instances", "static") + " --masked-lm-prob 0.3"],
        "leave it out, or build with --masking dynamic",
        {},
        [PRETRAIN.replace("instances", "static"), PRETRAIN + " --masked-lm-prob 0.3"],
    ),
    (
        {},
        [PRETRAIN.replace("instances", "gpt") + " --masked-lm-prob 0.3"],
        "effect; leave it out",
        {},
        [PRETRAIN.replace("instances", "gpt")],
    ),
    (
        {},
        [PRETRAIN.replace("instances", "gpt") + " --share-layers"],
        "--share-layers has no effect on instances of {}; leave it out",
        {},
        [PRETRAIN.replace("instances", "gpt")],
    ),
    (
        {},
        [PRETRAIN + " --architecture gpt2"],
        "; use another one, or build again",
        {},
        [
            PRETRAIN + " --architecture bert",
            "build tokens -o again --objective clm --max-seq-length 16",
            PRETRAIN.replace("instances", "again") + " --architecture gpt2",
        ],
    ),
    (
        {},
        [
            PRETRAIN.replace("--preset tiny", "--architecture modernbert").replace(
                "instances", "mlm"
            )
        ],
        "build again with --max-seq-length {} or more, or use another architecture",
        {},
        [PRETRAIN.replace("instances", "mlm")],
    ),
    (
        {},
        [PRETRAIN.replace("instances", "gpt") + " --eval-every 1"],
        "leave it out, or build with a larger --eval-fraction",
        {},
        [PRETRAIN.replace("instances", "gpt"), PRETRAIN + " --eval-every 1"],
    ),
    ({}, [PRETRAIN + " --fsdp"], "which keeps the whole model; leave it out", {}, [PRETRAIN]),
    (
        {},
        [RESUMED + " --continue-from run --optimizer lamb"],
        "cannot use; pass --optimizer",
        {},
        [RESUMED + " --continue-from run --optimizer adamw"],
    ),
    (
        {},
        [RESUMED.replace("instances", "cased-instances") + " --continue-from run"],
        "encode its text with the tokenizer of the run",
        {},
        [RESUMED + " --continue-from run"],
    ),
    (
        {},
        [RESUMED.replace("instances", "instances-sop") + " --continue-from run"],
        "but the model of {} learns {}; build it again",
        {},
        [RESUMED + " --continue-from run"],
    ),
    (
        {},
        [RESUMED.replace("instances", "long") + " --continue-from run"],
        "positions; build it again",
        {},
        [
            "build tokens -o long --overwrite --max-seq-length 16",
            RESUMED.replace("instances", "long") + " --continue-from run",
        ],
    ),
    (
        {},
        [RESUMED + " --continue-from in"],
        "; name run, or run/",
        {},
        [RESUMED + " --continue-from run"],
    ),
    (
        {},
        [RESUMED + " --continue-from run --max-steps 1"],
        "it includes them, so pass more",
        {},
        [RESUMED + " --continue-from run --max-steps 3"],
    ),
    (
        {},
        [RESUMED.replace("instances", "long") + " --init-from run/export"],
        "; pass --extend-positions, or build them with a smaller --max-seq-length",
        {},
        [
            RESUMED.replace("instances", "long")
            + " --init-from run/export --extend-positions repeat",
            RESUMED + " --init-from run/export",
        ],
    ),
    (
        {},
        [RESUMED + " --init-from run/export --extend-positions repeat"],
        "and instances have up to {} tokens; leave it out",
        {},
        [RESUMED + " --init-from run/export"],
    ),
    (
        {},
        [RESUMED.replace("instances", "gpt") + " --init-from run/export"],
        "choose another model, or build again",
        {},
        [RESUMED + " --init-from run/export"],
    ),
    (
        {"m/config.json": '{"model_type": "bert"}'},
        [RESUMED + " --init-from m"],
        "; name a Hugging Face folder of a model",
        {},
        [RESUMED + " --init-from run/export"],
    ),
    (
        {},
        [PRETRAIN + " --batch-size 3 --nproc-per-node 2"],
        "cannot be divided among {} processes; choose a multiple of {}",
        {},
        [PRETRAIN + " --batch-size 4 --nproc-per-node 2"],
    ),
    (
        {},
        [AGAIN + " --max-steps 1"],
        "more than --max-steps {}; pass --max-steps {} or more, or --overwrite",
        {},
        [AGAIN + " --max-steps 2", AGAIN + " --max-steps 1 --overwrite"],
    ),
    (
        {},
        [PRETRAIN + " cased-instances --weights 0.5,0.5"],
        "encode both corpora with the same one",
        {},
        [
            "encode in -t tokenizer -o cased-tokens --overwrite",
            "build cased-tokens -o cased-instances --max-seq-length 16 --overwrite",
            PRETRAIN + " cased-instances --weights 0.5,0.5",
        ],
    ),
    (
        {},
        [PRETRAIN + " long --phases 16:0.5,32:0.5"],
        "but --phases has {}; build it again, or change --phases",
        {},
        [PRETRAIN + " long --phases 16:0.5,600:0.5"],
    ),
    (
        {},
        [
            "build tokens -o built --max-seq-length 16 --single-sentence drop",
            AGAIN.replace("instances", "built").replace("run", "kept") + " --max-steps 1",
            "build tokens -o built --max-seq-length 16 --overwrite",
            "inspect kept --replay",
        ],
        "was trained on it; build it again with the same options",
        {},
        [
            "build tokens -o built --max-seq-length 16 --single-sentence drop --overwrite",
            "inspect kept --replay",
        ],
    ),
    (
        {},
        [PRETRAIN + " --schedule wsd --decay-steps 1 --warmup-tokens 100000"],
        "--warmup-tokens {} do not fit before the decay; lower them, or train longer",
        {},
        [
            PRETRAIN + " --schedule wsd --decay-steps 1 --warmup-tokens 100",
            PRETRAIN.replace("--max-steps 2", "--max-steps 900")
            + " --schedule wsd --decay-steps 1 --warmup-tokens 100000",
        ],
    ),
    (
        {},
        ["sed -i s/nsp/none/ instances/manifest.json", PRETRAIN],
        ": was built with --objective {}, but what is trained here learns from {}; build it again",
        {},
        [
            "build tokens -o instances --max-seq-length 16 --eval-fraction 0.2 --overwrite",
            PRETRAIN,
        ],
    ),
    (
        {},
        [
            "build tokens -o longer --max-seq-length 32",
            AGAIN.replace("instances", "instances longer").replace("run", "kept")
            + " --max-steps 2 --phases 16:0.5,32:0.5",
            "inspect kept --replay",
        ],
        "has {}; choose one with --phase, from 0",
        {},
        ["inspect kept --replay --phase 0", "inspect kept --replay --phase 1"],
    ),
    (
        {},
        ["sed -i s/bert/bort/ run/export/config.json", RESUMED + " --init-from run/export"],
        ": model_type is {}, but --init-from requires {}; choose another model",
        {},
        ["sed -i s/bort/bert/ run/export/config.json", RESUMED + " --init-from run/export"],
    ),
    (
        {},
        ["sed -i s/gelu/silu/ run/export/config.json", RESUMED + " --init-from run/export"],
        ": {} is {}, but --init-from requires {}; choose another model",
        {},
        [
            "sed -i s/silu/gelu/ run/export/config.json",
            RESUMED + " --init-from run/export",
        ],
    ),
    (
        {},
        [DAMAGE.format("num_hidden_layers", '"2"'), RESUMED + " --continue-from run"],
        ": the shape of its model is damaged ({}); recreate the folder",
        {},
        [AGAIN + " --max-steps 2 --overwrite", RESUMED + " --continue-from run"],
    ),
    (
        {},
        [DAMAGE.format("num_attention_heads", 7), RESUMED + " --continue-from run"],
        "cannot be divided among {} attention heads; recreate the folder",
        {},
        [AGAIN + " --max-steps 2 --overwrite", RESUMED + " --continue-from run"],
    ),
    (
        {},
        [DAMAGE.format("num_hidden_layers", 10**10), RESUMED + " --continue-from run"],
        "layers; at most {} are supported; recreate the folder",
        {},
        [AGAIN + " --max-steps 2 --overwrite", RESUMED + " --continue-from run"],
    ),
    (
        {},
        ["rm run/checkpoints/step-00000002/model.safetensors", AGAIN + " --max-steps 3"],
        "are damaged, pass --overwrite to start again",
        {},
        [AGAIN + " --max-steps 3 --overwrite"],
    ),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with folders of all kinds."""
    return make_run(make_folders(tmp_path_factory.mktemp("made")))


@pytest.fixture(autouse=True)
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``--dry-run`` build the model alone."""
    monkeypatch.setattr("tokkit.pretraining.training.estimate._time_steps", lambda *_: 0.1)


@pytest.mark.parametrize("row", ROWS, ids=[row[2] for row in ROWS])
def test_runs_succeed_after_their_remedy(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: Row
) -> None:
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))
    follow(row)


@pytest.mark.parametrize(
    "row",
    [
        (
            "rm run/export/model.safetensors",
            "the [MASK]",
            "; remove {} and run the same tokkit pretrain again, which writes it",
            "rm -r run/export",
            "the [MASK]",
        ),
        (
            "sed -i s/F32/F3/ run/export/model.safetensors",
            "the [MASK]",
            "; remove {} and run the same tokkit pretrain again, which writes it",
            "rm -r run/export",
            "the [MASK]",
        ),
        (
            "sed -i s/bert/bart/ run/export/config.json",
            "the [MASK]",
            "model_type is {}; name the export folder of a run",
            "sed -i s/bart/bert/ run/export/config.json",
            "the [MASK]",
        ),
        (
            "sed -i s/hidden_size/size/ run/export/config.json",
            "the [MASK]",
            "name the export folder of a run",
            "sed -i s/size/hidden_size/ run/export/config.json",
            "the [MASK]",
        ),
        (
            "rm -f none",
            "the " * 600 + "[MASK]",
            "the sentence has {} tokens, but the model {} positions; shorten it",
            "rm -f none",
            "the [MASK]",
        ),
    ],
)
def test_masks_are_filled_after_the_remedy(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: tuple[str, ...]
) -> None:
    from tokkit.pretraining.models.export import fill_mask

    damage, sentence, fault, mended, other = row
    monkeypatch.chdir(shutil.copytree(made, tmp_path / "work"))
    succeed(damage)
    with pytest.raises(TokkitError) as error:
        fill_mask(Path("run/export"), sentence)
    for part in fault.split("{}"):
        assert part in str(error.value)
    succeed(mended)
    succeed(AGAIN + " --max-steps 2")
    assert fill_mask(Path("run/export"), other)
