"""How long a stage takes to plan, to resume and to be opened, where it has 100,000 units.

    python tests/benchmarks/planning.py [--units 100000] [--store [s3://BUCKET]] [--tiny] [--json FILE]

The inputs are small files, one a unit. Their shards are links to one shard, and their receipts are
fabricated, so that nothing is measured but what happens before and after the units. With ``--store``
all folders but the tokenizer are on a store: that of ``tests/memorystore.py``, whose requests are
counted, or another one, which is to be empty; see ``tests/seaweedfs.py``.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import obstore
from benchmarks.measuring import Usage, run_measured, tokkit
from memorystore import MemoryStore, run_store
from obstore.store import from_url
from tinytokenizers import write_vocab

from tokkit.encoding.encode import make_encode_stage
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.mirrors import STATE_FOLDER, fetch_files, is_stored, pull
from tokkit.engine.receipts import DONE_FOLDER, Receipt, read_receipts, seal
from tokkit.engine.requests import map_in_threads
from tokkit.engine.stage import Stage
from tokkit.instances.build import make_build_stage
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.document_reader import DocumentReader
from tokkit.options import find_local, uri_of
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.shards.reader import ShardFolder

MEMORY = "s3://corpora/planning"
# ext4 allows 65,000 names of a file.
MAX_LINKS = 50_000
LINE = "The cat sat on the mat {}. The dogs sat.\n\n"
# The most seconds that 100,000 units may take; all may take 1 GB.
GOALS = {
    "plan": 60,
    "part": 60,
    "missing": 60,
    "resume": 60,
    "up to date": 60,
    "open tokens": 5,
    "plan build": 60,
    "plan build of blocks": 60,
    "part of build": 60,
    "last part of build": 60,
    "commit build": 60,
    "open instances": 5,
    "plan train": 60,
    "missing of train": 60,
    "resume train": 60,
    "train up to date": 60,
}


def open_folder(folder: Path, kind: str) -> Usage:
    """Open a folder as readers do, in this process."""
    started, cpu_started = time.perf_counter(), time.process_time()
    folder = find_local(folder)
    pull(folder)
    shards = ShardFolder.open(folder, kind)
    if kind == "instances":
        InstanceReader(shards, "train-")
    else:
        _ = DocumentReader(shards, shards.batch_refs()).starts
    return Usage(time.perf_counter() - started, time.process_time() - cpu_started)


def write_inputs(folder: Path, num_units: int) -> None:
    """Write a small file for each unit, a thousand in a folder."""
    for number in range(num_units):
        below = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            below.mkdir(parents=True)
        (below / f"{number:06}.txt").write_text("".join(LINE.format(n) for n in range(14)))


def upload(folder: Path, uri: str, memory: MemoryStore) -> None:
    """Copy a folder of small files to a store."""
    store = from_url(uri, client_options={"allow_http": True})

    def put(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        if uri.startswith(MEMORY):  # at once, since it is in this process
            memory.put(f"{uri.removeprefix('s3://')}/{name}", path.read_bytes())
        else:
            obstore.put(store, name, path.read_bytes())

    files = (path for path in folder.rglob("*") if path.is_file())
    for _ in map(put, files) if uri.startswith(MEMORY) else map_in_threads(put, files):
        pass


def fabricate(stage: Stage, folder: Path, memory: MemoryStore) -> None:
    """Give each unit but the last the shard and the receipt of the only one that is done.

    Args:
        stage: whose output has the one unit.
        folder: where files are made that go to a store.
        memory: that store, if it is in this process.
    """
    fetch_files(stage.output, [(unit.shard, "", 0) for unit in stage.units[:1]])
    ((_, receipt),) = read_receipts(stage.output).items()
    made = stage.output / receipt["name"]
    output = folder if is_stored(stage.output) else stage.output
    done = output / STATE_FOLDER / DONE_FOLDER
    done.mkdir(parents=True, exist_ok=True)
    for number, unit in enumerate(stage.units[:-1]):
        path = output / unit.shard
        if path != made and number % MAX_LINKS == 0:
            made = Path(shutil.copy(made, path))
        elif path != made:
            path.hardlink_to(made)
        own: Receipt = {**receipt, "name": unit.shard, "input": unit.name, "stamp": unit.stamp}
        (done / f"{stage.unit_key(unit)}.json").write_bytes(seal(own))
    if output == folder:
        upload(folder, uri_of(stage.output), memory)
        shutil.rmtree(folder)


def measure(
    folder: Path, num_units: int, store: str, memory: MemoryStore
) -> Iterator[tuple[str, Usage]]:
    """Yield what is measured, as it is."""
    write_inputs(folder / "in", num_units)
    tokenizer = write_vocab(folder / "tokenizer", do_lower_case=True)
    root = store or str(folder)
    if store:
        upload(folder / "in", f"{store}/in", memory)
    texts, tokens, instances = (f"{root}/{name}" for name in ("in", "tokens", "instances"))
    encode = tokkit("encode", texts, "-t", tokenizer, "-o", tokens, "--unit-bytes", "1024")
    yield "plan", run_measured([*encode, "--plan"])
    yield "part", run_measured([*encode, "--part", f"0/{num_units}"])
    encode_config = EncodeConfig(
        inputs=(texts,), tokenizer=tokenizer, output=Path(tokens), unit_bytes=1024, commit=True
    )
    fabricate(make_encode_stage(encode_config), folder / "made", memory)
    yield "missing", run_measured([*encode, "--missing", "10"])
    shutil.rmtree(folder / "cache", ignore_errors=True)  # resume as another machine does
    yield "resume", run_measured(encode)
    yield "up to date", run_measured(encode)
    yield "open tokens", open_folder(Path(tokens), "tokens")
    build = tokkit("build", tokens, "-o", instances, "--unit-tokens", "1", "--eval-fraction", "0")
    yield "plan build", run_measured([*build, "--plan"])
    yield (
        "plan build of blocks",
        run_measured([*build[:-4], "-o", f"{root}/blocks", "--objective", "clm", "--plan"]),
    )
    yield "part of build", run_measured([*build, "--part", f"0/{num_units}"])
    build_config = BuildConfig(
        tokens=Path(tokens),
        output=Path(instances),
        unit_tokens=1,
        eval_fraction=0.0,
        commit=True,
    )
    fabricate(make_build_stage(build_config), folder / "made", memory)
    yield "last part of build", run_measured([*build, "--part", f"{num_units - 1}/{num_units}"])
    yield "commit build", run_measured([*build, "--commit"])
    if store:  # training reads copies of all shards
        yield "copy instances", open_folder(Path(instances), "instances")
    yield "open instances", open_folder(Path(instances), "instances")
    # The inputs are so small that all are one unit, whose part is the counting itself.
    train = tokkit("train", texts, "-o", f"{root}/learned", "--vocab-size", "40")
    yield "plan train", run_measured([*train, "--plan"])
    yield "count for train", run_measured([*train, "--part", "0/1"])
    yield "missing of train", run_measured([*train, "--missing", "10"])
    yield "resume train", run_measured(train)
    yield "train up to date", run_measured(train)


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=100_000)
    parser.add_argument(
        "--store",
        nargs="?",
        default="",
        const=MEMORY,
        help="an empty folder for all but the tokenizer",
    )
    parser.add_argument(
        "--latency", type=float, default=0.0, help="seconds of a request to a store"
    )
    parser.add_argument("--tiny", action="store_true", help="measure with 20 units")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args(arguments)
    num_units = 20 if options.tiny else options.units
    figures = {}
    with tempfile.TemporaryDirectory() as folder, run_store(options.latency) as (memory, address):
        if options.store == MEMORY:
            keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
            os.environ |= {"AWS_ENDPOINT_URL": address, "AWS_REGION": "us-east-1", **keys}
            os.environ["TOKKIT_CACHE"] = f"{folder}/cache"
        sys.stdout.write(f"{num_units:,} units          seconds  CPU seconds        MB    goal\n")
        for name, usage in measure(Path(folder), num_units, options.store, memory):
            figures[name] = asdict(usage)
            requests = ", ".join(f"{number:,} {kind}" for kind, number in memory.requests.items())
            memory.requests.clear()
            sys.stdout.write(
                f"{name:<22}{usage.seconds:>9.1f}{usage.cpu_seconds:>13.1f}{usage.megabytes:>10.0f}"
                f"{GOALS.get(name, ''):>8}  {requests}\n"
            )
            sys.stdout.flush()
    if options.json:
        options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
