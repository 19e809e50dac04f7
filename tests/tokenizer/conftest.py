"""What tests of exactness share."""

import functools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tokkit.tokenizer.characters import WordCharacters


@pytest.fixture(scope="session", autouse=True)
def ask_once() -> Iterator[None]:
    """Let all encoders of a test process share the library's answers about single characters.

    Each encoder asks about every character on the pages that it meets, 256 at a time, and there are
    hundreds of encoders with the same pre-tokenizer.
    """
    fill: Callable[..., None] = WordCharacters.__init__
    shared: dict[bytes, SimpleNamespace] = {}

    def fill_from_answers(
        self: WordCharacters, normalize: Any, pre_tokenizer: Any, **options: Any
    ) -> None:
        cut = functools.cache(pre_tokenizer.pre_tokenize_str)
        same = shared.setdefault(
            pre_tokenizer.__getstate__(), SimpleNamespace(pre_tokenize_str=cut)
        )
        fill(self, normalize, same, **options)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(WordCharacters, "__init__", fill_from_answers)
        yield
