"""The floors of the house: a room imports only from floors below it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "tokkit"

FLOORS = {
    "__main__": 6,
    "cli": 5,
    "inspection": 4,
    "vocab": 3,
    "encoding": 3,
    "instances": 3,
    "pretraining": 3,
    "corpus": 2,
    "shards": 2,
    "engine": 2,
    "kernels": 1,
    "errors": 0,
}

# Doors between rooms of one floor, each with its reason.
DOORS = {
    ("encoding", "tokkit.tokenizer.tokenizer"),  # what is encoded with is what was trained
    (
        "encoding",
        "tokkit.tokenizer.character_tables",
    ),  # what becomes of characters, as counting takes it
    ("encoding", "tokkit.tokenizer.definitions"),  # how byte-level entries are spelled
    ("vocab", "tokkit.tokenizer.encoder"),  # the report measures what was learned on new text
    ("instances", "tokkit.tokenizer.tokenizer"),  # which entries a random replacement may be
    ("pretraining", "tokkit.masking.mask_config"),  # masks are drawn at each epoch, …
    ("pretraining", "tokkit.shards.instances"),  # … or when they are built, …
    ("pretraining", "tokkit.masking.masks"),  # … by the same code
    (
        "pretraining",
        "tokkit.tokenizer.objective_tokens",
    ),  # what ends a text, for a model that generates
    ("pretraining", "tokkit.tokenizer.tokenizer"),  # what is exported beside the model
    ("shards", "tokkit.engine.manifest"),  # a folder of shards is read by its manifest
}

# Libraries that one room alone may import.
HOMES = {
    "click": {"cli"},
    "torch": {"pretraining"},
    "safetensors": {"pretraining"},
    "tensorboard": {"pretraining"},
    "tokenizers": {"vocab", "encoding"},
    "sentencepiece": {"vocab", "encoding"},
    "sentencex": {"corpus"},
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
}

KERNELS_MAY_IMPORT = {"llvmlite", "numba", "numpy", "tokkit.kernels"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "tokkit" else [str(node.module)]


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_from_floors_below(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return  # it hands on the public names, lazily
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] != "tokkit" or name == "tokkit.__version__" or len(parts) == 1:
            continue
        there = parts[1]
        allowed = (
            there == room or FLOORS[there] < FLOORS[room] or (room, ".".join(parts[:3])) in DOORS
        )
        assert allowed, f"{room} must not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    room = room_of(path)
    for name in imports_of(path):
        library = name.split(".")[0]
        assert room in HOMES.get(library, {room}), f"{room} must not import {library}"
        assert library not in {"transformers", "datasets", "pandas", "polars"}
        if room == "kernels" and library not in sys.stdlib_module_names:
            assert library in KERNELS_MAY_IMPORT or name.startswith("tokkit.kernels"), name


def test_files_stay_short_enough_to_read() -> None:
    tests = PACKAGE.parent / "tests"
    for path in [*modules(), *tests.rglob("*.py")]:
        assert len(path.read_text().splitlines()) <= 400, f"{path}: is it two things?"


HEAVY = [
    "numba",
    "pyarrow",
    "torch",
    "transformers",
    "ray",
    "tokenizers",
    "sentencepiece",
    "sentencex",
    "numpy",
]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["encode", "--help"], ["run", "--help"]]
)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from tokkit.cli import main\n"
        f"sys.argv = ['tokkit', *{arguments!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "tokkit" in ended.stdout


def test_the_public_names_are_there() -> None:
    import tokkit

    for name in tokkit.__all__:
        assert getattr(tokkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokkit.nonsense
