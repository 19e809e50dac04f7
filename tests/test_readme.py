"""Every command and every snippet of the README works, and prints what the README says it does.

The commands run in the README's order in one folder. Only the number of training steps is cut
down, to what a model needs to learn something; and numbers in the output may differ, since the corpus is the
documentation of whichever Python runs the test.
"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from pyarrow import ipc

from tokkit import InstanceLoader
from tokkit.pretraining.training.run_record import read_metrics

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
STEPS = "300"
NUM_CONTROL = 5  # [PAD] and so on, which come first


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={"PATH": path, "HOME": str(folder), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def shape(text: str) -> list[str]:
    """Output without what depends on the corpus, the clock and what was compiled before."""
    text = re.sub(r"(?m)^tokkit: compiling kernels.*\n?", "", text)
    text = re.sub(r"[0-9a-f]{64}", "HASH", text)
    text = re.sub(r"1 thread\b", "1 threads", text)
    text = re.sub(
        r"(longest|removed by normalization|checkpoints|time|memory there is): .*", r"\1: …", text
    )
    text = re.sub(r"\d[\d,.]*(e-\d+)?", "N", text)
    return [re.sub(r"  +", "  ", line).rstrip() for line in text.strip().splitlines()]


def test_the_readme_works_from_top_to_bottom(tmp_path: Path) -> None:
    """One test, in order: each command needs what those before it made."""
    run_quickstart(tmp_path)
    check_learning(tmp_path / "quickstart")
    check_commands(tmp_path)
    check_snippets(tmp_path)


def run_quickstart(folder: Path) -> None:
    """The recipe, twice: it does everything, then nothing."""
    shutil.copytree(ROOT / "corpora", folder / "corpora")
    recipe = folder / "corpora" / "quickstart.toml"
    recipe.write_text(re.sub(r"(?m)^max-steps = \d+", f"max-steps = {STEPS}", recipe.read_text()))
    (quickstart,) = (block for block in blocks("sh") if "tokkit run" in block)
    ended = run(quickstart.split("&&")[1], folder)
    assert ended.returncode == 0, ended.stderr
    (expected,) = blocks("text")
    assert masked_shape(ended.stdout) == masked_shape(expected)
    ended = run("tokkit run corpora/quickstart.toml", folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("up to date") == 5
    assert "[MASK]" not in ended.stdout


def check_learning(folder: Path) -> None:
    """The model knows more of what is held out than how frequent each token is."""
    instances = folder / "instances"
    counts = np.zeros(len((folder / "tokenizer" / "vocab.txt").read_text().splitlines()))
    for path in instances.glob("train-*.arrow"):
        ids = ipc.open_file(path).read_all().column("input_ids").combine_chunks().flatten()
        np.add.at(counts, ids.to_numpy(), 1)
    counts[:NUM_CONTROL] = 0
    chances = (counts + 1) / (counts + 1).sum()
    labels = np.concatenate(
        [
            batch["labels"].numpy()
            for batch in InstanceLoader(instances, batch_size=64, split="eval")
        ],
        axis=None,
    )
    unigram_loss = -np.log(chances[labels[labels >= 0]]).mean()
    evaluations = [
        line for line in read_metrics(folder / "run" / "metrics.jsonl") if line["kind"] == "eval"
    ]
    assert evaluations[-1]["mlm_loss"] < unigram_loss - 0.15


def masked_shape(text: str) -> list[str]:
    """Stages, folders and questions; the answers are up to the training."""
    return [re.sub(r"\S+ N%", "ANSWER", line) for line in shape(text)]


def check_commands(folder: Path) -> None:
    """Commands print what the README shows."""
    assert blocks("console")
    for block in blocks("console"):
        for part in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, expected = part.partition("\n")
            ended = run(re.sub(r"--max-steps \d+", f"--max-steps {STEPS}", command), folder)
            assert ended.returncode == 0, f"{command}\n{ended.stderr}"
            if "inspect" in command:  # its rows depend on the corpus, its facts do not
                expected = expected.partition("\n\n")[0]
                shown = shape(ended.stdout)[: len(shape(expected))]
            else:
                shown = shape(ended.stdout + ended.stderr)
            assert shown == shape(expected), command


def check_snippets(folder: Path) -> None:
    """The snippets read what the commands wrote."""
    assert len(blocks("python")) >= 5
    for number, snippet in enumerate(blocks("python")):
        script = folder / f"snippet_{number}.py"
        script.write_text(snippet)
        ended = run(f"python {shlex.quote(script.name)}", folder)
        assert ended.returncode == 0, f"{snippet}\n{ended.stderr}"


def test_the_two_lines_are_those_that_ci_and_newcomers_run() -> None:
    assert blocks("sh") == [
        "pip install -e '.[pretrain]' -c tests/constraints.txt && tokkit run corpora/quickstart.toml\n",
        "pip install -e '.[test]' -c tests/constraints.txt && pytest\n",
    ]
    assert (ROOT / "tests" / "constraints.txt").is_file()
