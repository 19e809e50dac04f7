"""Every command and every snippet of the README works, and commands print what the README shows.

The quickstart runs once for all tests, with fewer training steps. Each block of commands and each
snippet runs in a folder of its own with copies of what the quickstart made; where a block reads
``tokens`` and does not write it, it gets the quickstart's. Numbers in the output may differ, since
the corpus is the documentation of whichever Python runs the test.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
from pyarrow import ipc

from tokkit import InstanceLoader
from tokkit.pretraining.training.run_record import read_metrics

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
STEPS = "240"  # enough for the model to learn something
FOLDERS = ("tokenizer", "tokens", "instances")
NUM_SPECIAL = 5  # [PAD] and so on, which come first
KEPT_VARIABLES = ("PYTHONPATH", "NUMBA_CACHE_DIR")

# What differs from run to run or from Python to Python, beside numbers.
VARYING = (
    r"(longest|removed by normalization|checkpoints|time|memory there is|available memory): .*"
)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of the README as its reader does, and refuse one that fails.

    A plain ``tokkit …`` or ``python …`` runs in a copy of a process that has imported everything.
    """
    environment = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    environment |= {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    command = re.sub(r"--max-steps \d+", f"--max-steps {STEPS}", command)
    command = command.replace("--preset mini", "--preset tiny")  # which the numbers alone depend on
    options: dict[str, Any] = {
        "cwd": folder,
        "env": environment,
        "capture_output": True,
        "text": True,
    }
    if re.fullmatch(r"(tokkit|python) [\w./ -]+", command.strip()):
        program, *arguments = command.split()
        start = [sys.executable, *(("-m", program) if program == "tokkit" else ())]
        ended = forkserver.run([*start, *arguments], **options)
    else:
        shell = ["bash", "-euo", "pipefail", "-c", command]
        ended = subprocess.run(shell, **options, check=False)
    assert ended.returncode == 0, f"{command}\n{ended.stderr}"
    return ended


def shape(text: str) -> list[str]:
    """Return the lines of an output without what depends on corpus, clock and compiled kernels."""
    text = re.sub(r"(?m)^tokkit: compiling kernels.*\n?", "", text)
    text = re.sub(r"[0-9a-f]{64}", "HASH", text)
    text = re.sub(r"1 thread\b", "1 threads", text)
    text = re.sub(VARYING, r"\1: …", text)
    text = re.sub(r"\d[\d,.]*(e-\d+)?", "N", text)
    return [re.sub(r"  +", "  ", line).rstrip() for line in text.strip().splitlines()]


def pattern_of(lines: list[str]) -> str:
    """Return a pattern of these lines, in which a line of dots stands for any others."""
    return "\n".join(r"(?s:.*?)" if line.strip() == "…" else re.escape(line) for line in lines)


def shape_of_answers(text: str) -> list[str]:
    """Return the shape of the quickstart's output, whose answers depend on the training."""
    return [re.sub(r"\S+ N%", "ANSWER", line) for line in shape(text)]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the quickstart has run, with its output in ``output.txt``.

    It is made by the first test process that needs it, while others wait.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "readme"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "output.txt").exists():
            shutil.copytree(ROOT / "corpora", folder / "corpora", dirs_exist_ok=True)
            recipe = folder / "corpora" / "quickstart.toml"
            steps = re.sub(r"(?m)^max-steps = \d+", f"max-steps = {STEPS}", recipe.read_text())
            recipe.write_text(steps)
            (command,) = (block for block in blocks("sh") if "tokkit run" in block)
            output = run(command.split("&&")[1], folder).stdout
            (folder / "output.txt").write_text(output)
    return folder


def prepare(block: str, finished: Path, folder: Path) -> None:
    """Copy into a folder what a block reads."""
    block = re.sub(r"(?m)^tokkit: next: .*", "", block)  # names what another command writes
    left_out = None if "quickstart/run" in block else shutil.ignore_patterns("run")
    shutil.copytree(finished / "quickstart", folder / "quickstart", ignore=left_out)
    shutil.copytree(finished / "corpora", folder / "corpora")
    block = re.sub(r"(?m)^tokkit: next: .*", "", block)  # which names a folder to be written
    for name in FOLDERS:
        is_read = re.search(rf"(?<![\w/-]){name}(?![\w-])", block)
        is_written = re.search(rf"(-o |output=Path\(\"){name}(?![\w-])", block)
        if is_read and not is_written:
            shutil.copytree(finished / "quickstart" / name, folder / name)


def test_the_quickstart_prints_what_the_readme_shows(finished: Path) -> None:
    (expected,) = (block for block in blocks("text") if "quickstart/run" in block)
    output = (finished / "output.txt").read_text()
    assert shape_of_answers(output) == shape_of_answers(expected)


def test_the_quickstart_does_nothing_when_it_runs_again(finished: Path, tmp_path: Path) -> None:
    prepare("quickstart/run", finished, tmp_path)
    ended = run("tokkit run corpora/quickstart.toml", tmp_path)
    assert ended.stdout.count("up to date") == 5
    assert "[MASK]" not in ended.stdout


def test_the_quickstart_s_model_knows_more_than_how_frequent_each_token_is(finished: Path) -> None:
    folder = finished / "quickstart"
    instances = folder / "instances"
    counts = np.zeros(len((folder / "tokenizer" / "vocab.txt").read_text().splitlines()))
    for path in instances.glob("train-*.arrow"):
        ids = ipc.open_file(path).read_all().column("input_ids").combine_chunks().flatten()
        np.add.at(counts, ids.to_numpy(), 1)
    counts[:NUM_SPECIAL] = 0
    chances = (counts + 1) / (counts + 1).sum()
    batches = InstanceLoader(instances, batch_size=64, split="eval")
    labels = np.concatenate([batch["labels"].numpy() for batch in batches], axis=None)
    unigram_loss = -np.log(chances[labels[labels >= 0]]).mean()
    metrics = read_metrics(folder / "run" / "metrics.jsonl")
    evaluations = [line for line in metrics if line["kind"] == "eval"]
    assert evaluations[-1]["mlm_loss"] < unigram_loss - 0.15


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.split("\n")[0][2:60])
def test_commands_print_what_the_readme_shows(block: str, finished: Path, tmp_path: Path) -> None:
    prepare(block, finished, tmp_path)
    for part in re.split(r"(?m)^\$ ", block)[1:]:
        command, _, expected = part.partition("\n")
        output = re.search(r"-o (\S+)", command)
        if output and "up to date" in expected and not (tmp_path / output[1]).exists():
            run(command, tmp_path)
        ended = run(command, tmp_path)
        shown = shape(ended.stdout + ended.stderr)
        if "inspect" in command:  # its facts are compared; its rows depend on the corpus
            expected = expected.partition("\n\n")[0]
            shown = shape(ended.stdout)[: len(shape(expected))]
        assert re.fullmatch(pattern_of(shape(expected)), "\n".join(shown)), command


RUN_SNIPPETS = """
import runpy, sys
for name in sys.argv[1:]:  # as programs of their own, in one process, which imports torch once
    runpy.run_path(name, run_name="__main__")
"""


def test_snippets_run(finished: Path, tmp_path: Path) -> None:
    snippets = blocks("python")
    assert len(snippets) == 4
    prepare("\n".join(snippets), finished, tmp_path)
    for number, snippet in enumerate(snippets):
        (tmp_path / f"snippet{number}.py").write_text(snippet)
    (tmp_path / "run_snippets.py").write_text(RUN_SNIPPETS)
    # In full: the worker processes of a copy look for them where the copied process was started.
    names = " ".join(f"{tmp_path}/snippet{number}.py" for number in range(len(snippets)))
    run(f"python run_snippets.py {names}", tmp_path)


def test_the_script_of_an_array_job_and_its_steps_make_the_folder(
    finished: Path, tmp_path: Path
) -> None:
    (script,) = blocks("bash")
    _, options, command = script.splitlines()
    assert options == "#SBATCH --array=0-63"
    prepare(script, finished, tmp_path)
    part, step = "--part auto/64", command.replace("--part auto/64", "{}")
    assert run(step.format("--plan"), tmp_path).stdout == "tokens: planned 1 unit\n"
    run(f"SLURM_ARRAY_TASK_ID=3 {command}", tmp_path)
    assert run(step.format("--missing 64"), tmp_path).stdout == "0\n"
    run(f"JOB_COMPLETION_INDEX=0 {step.format(part)}", tmp_path)
    assert not run(step.format("--missing 64"), tmp_path).stdout
    run(step.format("--commit"), tmp_path)
    run("tokkit verify tokens", tmp_path)


def test_the_readme_s_two_commands_are_those_that_ci_and_newcomers_run() -> None:
    assert blocks("sh") == [
        "pip install -e '.[pretrain]' -c tests/constraints.txt && tokkit run corpora/quickstart.toml\n",
        "pip install -e '.[test]' -c tests/constraints.txt && pytest\n",
    ]
    assert (ROOT / "tests" / "constraints.txt").is_file()
