"""Write the documentation that every Python carries as JSON lines: a small corpus of English.

The text is the language reference (``pydoc_data.topics``) and the docstrings of the standard
library. Modules in Python are read from their sources, without running them; modules in C are
asked for their docstrings. One Python version always gives the same bytes. The text is under
Python's licence, PSF-2.0: it is read from the interpreter in use and is no part of tokkit.

    $ python corpora/python_docs.py > python-docs.jsonl

Each line is an object with ``id`` and ``text``: a topic, a class with its methods, or a module
with its functions, a blank line between two docstrings.
"""

import ast
import inspect
import json
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

SKIPPED_FOLDERS = frozenset({"__pycache__", "site-packages", "test", "tests"})
SHORTEST = 80

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_module(path: Path, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, docstrings) of a source file: the module with its functions, then each class."""
    try:
        with warnings.catch_warnings(action="ignore"):
            module = ast.parse(path.read_bytes())
    except SyntaxError:
        return
    yield name, list(walk_docstrings(module))
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef):
            yield f"{name}.{node.name}", list(walk_docstrings(node))


def walk_docstrings(node: Definition) -> Iterator[str]:
    """Yield the docstrings of a definition and of the functions in it; classes stand alone."""
    yield ast.get_docstring(node) or ""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from walk_docstrings(child)


def ask_module(module: Any, name: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (name, docstrings) of a module in C: itself with its functions, then each class."""
    members = [member for _, member in sorted(vars(module).items())]
    functions = [member for member in members if inspect.isbuiltin(member)]
    yield name, [inspect.getdoc(member) or "" for member in (module, *functions)]
    for member in members:
        if inspect.isclass(member) and member.__module__ == name:
            methods = [method for _, method in sorted(vars(member).items()) if callable(method)]
            docstrings = [inspect.getdoc(part) or "" for part in (member, *methods)]
            yield f"{name}.{member.__name__}", docstrings


def list_documents() -> Iterator[tuple[str, list[str]]]:
    """Yield (id, docstrings) of all documents: topics, modules in C, modules in Python."""
    for topic in sorted(topics):
        yield f"topic {topic}", [inspect.cleandoc(topics[topic])]
    for name in sorted(sys.builtin_module_names):
        yield from ask_module(import_module(name), name)
    library = Path(sysconfig.get_path("stdlib"))
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).with_suffix("").parts
        if not SKIPPED_FOLDERS & set(parts):
            yield from read_module(path, ".".join(parts).removesuffix(".__init__"))


def main() -> None:
    """Write the documents; a docstring that was there before says nothing new."""
    seen: set[str] = set()
    for name, docstrings in list_documents():
        fresh = []
        for docstring in docstrings:
            if docstring and docstring not in seen:
                seen.add(docstring)
                fresh.append(docstring)
        text = "\n\n".join(fresh)
        if len(text) >= SHORTEST:
            sys.stdout.write(json.dumps({"id": name, "text": text}) + "\n")


if __name__ == "__main__":
    main()
