"""Pack a corpus that is one list of documents."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

Document = Sequence[Sequence[int]]


@dataclass
class Packed:
    """A sequence: the document that it begins in, its number there, and its tokens."""

    document: int
    ordinal: int = 0
    tokens: list[int] = field(default_factory=list)


def pack_sentences(
    documents: Sequence[Document],
    numbers: Sequence[int],
    *,
    room: int,
    separator_id: int,
    cross_documents: bool,
) -> list[Packed]:
    """Pack whole sentences, as many as fit; longer ones are cut."""
    made: list[Packed] = []
    for number in numbers:
        for position, sentence in enumerate(documents[number]):
            separator = [separator_id] if position == 0 else []
            may_go_on = made and (cross_documents or position > 0)
            if may_go_on and len(made[-1].tokens) + len(separator) + len(sentence) <= room:
                made[-1].tokens += [*separator, *sentence]
                continue
            pieces = [[*sentence[start : start + room]] for start in range(0, len(sentence), room)]
            made += [Packed(number, 0, piece) for piece in pieces]
    return number_them(made)


def pack_blocks(
    documents: Sequence[Document], numbers: Sequence[int], *, block: int, separator_ids: list[int]
) -> tuple[list[Packed], int]:
    """Return blocks of one length, and the number of tokens of documents left over."""
    stream = [
        (number, token, is_text)
        for number in numbers
        for token, is_text in [
            *((token, True) for sentence in documents[number] for token in sentence),
            *((token, False) for token in separator_ids),
        ]
    ]
    whole = len(stream) // block * block
    made = [
        Packed(stream[start][0], 0, [token for _, token, _ in stream[start : start + block]])
        for start in range(0, whole, block)
    ]
    return number_them(made), sum(is_text for _, _, is_text in stream[whole:])


def number_them(made: list[Packed]) -> list[Packed]:
    """Number the sequences that begin in the same document."""
    for before, sequence in pairwise(made):
        if before.document == sequence.document:
            sequence.ordinal = before.ordinal + 1
    return made
