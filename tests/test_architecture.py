"""The rules of the house: who imports what, how long a file is, and that a name is given once."""

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tokkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 400

# From the top down. A room imports from floors below its own, and from nothing beside it.
FLOORS: tuple[set[str], ...] = (
    {"__main__", "__init__"},
    {"cli"},
    {"inspection"},
    {"vocab", "encoding", "instances", "pretraining"},
    {"masking"},
    {"tokenizer"},
    {"corpus"},
    {"shards"},
    {"engine"},
    {"kernels"},
    {"options"},
    {"errors"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# The only rooms that may import a library.
ROOMS_OF_LIBRARY: dict[str, set[str]] = {
    "click": {"cli"},
    "torch": {"pretraining"},
    "transformers": {"tokenizer"},
    "safetensors": {"pretraining"},
    **{name: {"pretraining"} for name in ("tensorboard", "wandb", "trackio", "mlflow")},
    "tokenizers": {"tokenizer", "vocab", "encoding"},
    "sentencepiece": {"tokenizer", "vocab", "encoding"},
    "sentencex": {"corpus"},
    "ray": {"engine"},
    "numba": {"kernels"},
    "llvmlite": {"kernels"},
}
# They are peers in tests; no module imports them.
LIBRARIES_OF_TESTS = {"datasets", "pandas", "polars"}
LIBRARIES_OF_KERNELS = {"llvmlite", "numba", "numpy"}

HEAVY = {
    *("numba", "pyarrow", "torch", "transformers", "ray"),
    *("tokenizers", "sentencepiece", "sentencex", "numpy"),
}
PRINT_HELP = """
import sys
from tokkit.cli import main
for arguments in {commands}:
    sys.argv = ["tokkit", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, arguments
print("imported:", *sorted({heavy} & set(sys.modules)))
"""


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    """All nodes of a file, whose source is parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


def imported_modules(path: Path) -> Iterator[str]:
    """Every module that a file imports, at whatever depth, by its full name."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where a name comes from"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from names if node.module == "tokkit" else [str(node.module)]


def all_imports() -> Iterator[tuple[Path, str]]:
    return ((path, name) for path in MODULES for name in imported_modules(path))


def report(faults: list[str]) -> str:
    return "\n".join(sorted(set(faults)))


def test_a_room_imports_only_from_floors_below_it() -> None:
    faults = []
    for path, name in all_imports():
        library, _, rest = name.partition(".")
        if library != "tokkit" or rest in {"", "__version__"}:
            continue
        here, there = room_of(path), rest.split(".")[0]
        if here != there and FLOOR_OF[there] <= FLOOR_OF[here]:
            faults.append(f"{path.relative_to(ROOT)} must not import {name}")
    assert not faults, report(faults)


def test_libraries_stay_in_their_rooms() -> None:
    faults = []
    for path, name in all_imports():
        room, library = room_of(path), name.split(".")[0]
        allowed = library not in LIBRARIES_OF_TESTS
        allowed &= room in ROOMS_OF_LIBRARY.get(library, {room})
        if room == "kernels" and library not in sys.stdlib_module_names:
            allowed = library in LIBRARIES_OF_KERNELS or name.startswith("tokkit.kernels")
        if not allowed:
            faults.append(f"{path.relative_to(ROOT)} must not import {name}")
    assert not faults, report(faults)


def test_no_file_has_more_than_400_lines() -> None:
    files = [*MODULES, *(ROOT / "tests").rglob("*.py")]
    lines = {path: len(path.read_text().splitlines()) for path in files}
    faults = [f"{path.relative_to(ROOT)}: {n} lines" for path, n in lines.items() if n > MAX_LINES]
    assert not faults, report(faults)


def test_a_module_name_is_given_once() -> None:
    """But for a command, which may share its verb with one module: ``cli/train.py``, ``vocab/train.py``."""
    paths = defaultdict(list)
    for path in MODULES:
        if path.stem != "__init__":
            paths[path.stem].append(path.relative_to(PACKAGE))
    faults = [
        f"{name}: {', '.join(map(str, given))}"
        for name, given in paths.items()
        if len(given) - (Path("cli", f"{name}.py") in given) > 1
    ]
    assert not faults, report(faults)


def test_a_class_name_is_given_once() -> None:
    modules = defaultdict(list)
    for path in MODULES:
        for node in nodes_of(path):
            if isinstance(node, ast.ClassDef):
                modules[node.name].append(str(path.relative_to(PACKAGE)))
    faults = [f"{name}: {', '.join(given)}" for name, given in modules.items() if len(given) > 1]
    assert not faults, report(faults)


def test_help_imports_nothing_heavy() -> None:
    commands = [["--help"], ["--version"], ["encode", "--help"], ["run", "--help"]]
    script = PRINT_HELP.format(commands=commands, heavy=HEAVY)
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Usage: tokkit") == 3
    assert ended.stdout.splitlines()[-1] == "imported:"


def test_every_public_name_can_be_imported() -> None:
    import tokkit

    for name in tokkit.__all__:
        assert getattr(tokkit, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = tokkit.nonsense
