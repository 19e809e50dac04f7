"""Changes JSON files the way damage, other releases or strangers would."""

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

# JSON texts, of which some are no JSON.
VALUES = (
    *("null", "true", "0", "-1", "10000000000", "100000000000000000000", "1e400", "NaN", "1.5"),
    *('""', '"x"', '"a\\u0000b"', '"\\ud800"', '"\\u001b[2J"', '"../../x"', "[]", "{}", "[[]]"),
    *('[{"name": 7}]', '{"name": []}', "[" * 500 + "]" * 500, "[" * 100_000, '{"a":' * 500),
)
WHOLE = (
    b"",
    b"\0",
    b"{",
    b"[]",
    b"7",
    b'"x"',
    b"null",
    b"\xff\xfe{}",
    b"[" * 100_000,
    b'{"a":1}' * 2,
)
_MARK = "the value to replace"


def mutants(text: str, seed: int, number: int) -> Iterator[bytes]:
    """Yield changed versions of a JSON text: all that replace it whole, and some of one value.

    Args:
        text: of an object.
        seed: random seed.
        number: how many of the latter.
    """
    yield from WHOLE
    data = json.loads(text)
    rng = random.Random(seed)  # noqa: S311  not for cryptography
    yield from (change_value(data, rng) for _ in range(number))


def change_value(data: Any, rng: random.Random) -> bytes:
    """Return JSON in which one value of an object or a list is another one, or is missing."""
    changed = copy.deepcopy(data)
    *above, key = rng.choice([*_places(data)])
    parent = changed
    for part in above:
        parent = parent[part]
    value = rng.choice((None, *VALUES))
    if value is None:
        del parent[key]
        return json.dumps(changed).encode()
    parent[key] = _MARK
    return json.dumps(changed).replace(json.dumps(_MARK), value).encode()


def _places(data: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the keys and indices that lead to each value."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *rest) for rest in _places(value))
