"""BERT's pairs of a list of documents, with the same draws as the kernels.

A document is a list of sentences, a sentence a list of ids. Segments are truncated one token at a
time, as google-research/bert does it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reference.philox import below, blocks, coins, happens, word
from tokkit.kernels.philox import FRONT_OF_A, FRONT_OF_B, HOLD_OUT, PAIR

Document = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Pairing:
    """The documents of a corpus, and the options for their pairs."""

    documents: Sequence[Document]
    max_seq_length: int
    short_seq_prob: float
    drop_single: bool
    eval_fraction: float
    seed: int
    begins_word: Callable[[int], bool]
    swap: bool = False  # ALBERT's pairs
    ranges: Sequence[range] = ()  # documents of random segments; all of them by default

    def is_held_out(self, number: int) -> bool:
        lanes = next(blocks(self.seed, HOLD_OUT, 0, number))
        return happens(lanes[0], self.eval_fraction)

    def pairs(self, *, held_out: bool, epoch: int) -> Iterator["Pair"]:
        for number in range(len(self.documents)):
            if self.is_held_out(number) == held_out:
                yield from self.visit(number, epoch)

    def visit(self, number: int, epoch: int) -> Iterator["Pair"]:
        """Yield the pairs of one document in one pass."""
        document = self.documents[number]
        if self.drop_single and len(document) == 1:
            return
        draws = blocks(self.seed, PAIR, epoch, number)
        max_tokens = self.max_seq_length - 3

        lanes = next(draws)
        target = max_tokens
        if happens(lanes[2], self.short_seq_prob):
            target = 2 + below(word(*lanes[:2]), max_tokens - 1)

        ordinal = 0
        chunk: list[Sequence[int]] = []
        waiting = list(document)
        while waiting:
            chunk.append(waiting.pop(0))
            is_full = sum(map(len, chunk)) >= target and len(chunk) >= (2 if self.swap else 1)
            if waiting and not is_full:
                continue
            if self.swap and len(chunk) == 1:
                return
            lanes = next(draws)
            a_end = 1
            if len(chunk) > 1:
                a_end += below(word(*lanes[:2]), len(chunk) - 1)
            a, rest = flatten(chunk[:a_end]), chunk[a_end:]
            is_tails = happens(lanes[2], 0.5)
            is_random = not self.swap and (not rest or is_tails)
            if is_random:
                b = self.random_segment(number, target - len(a), draws)
                waiting = rest + waiting
            else:
                b = flatten(rest)
                if self.swap and is_tails:
                    a, b = b, a
            index = number << 24 | ordinal
            yield Pair(
                number,
                index,
                *self.truncate(a, b, epoch, index),
                is_random or (self.swap and is_tails),
            )
            ordinal += 1
            chunk = []

    def random_segment(self, own: int, target: int, draws: Iterator[tuple[int, ...]]) -> list[int]:
        """Return whole sentences of another document of the same split, up to the target."""
        ranges = self.ranges or [range(len(self.documents))]
        source = own
        while source == own:
            chosen = range(0)
            while not chosen or self.is_held_out(source) != self.is_held_out(own):
                lanes = next(draws)
                bits = word(*lanes[:2])
                if not chosen:
                    chosen = ranges[below(bits, len(ranges))]
                    bits = bits * len(ranges) % 2**64
                source = chosen[below(bits, len(chosen))]
        document = self.documents[source]
        start = below(word(*lanes[2:]), len(document))
        segment = list(document[start])
        for sentence in document[start + 1 :]:
            if len(segment) >= target:
                break
            segment += sentence
        return segment

    def truncate(
        self, a: list[int], b: list[int], epoch: int, index: int
    ) -> tuple[list[int], list[int]]:
        """Remove a token of the longer segment (ties: B), front or back by a coin, while too long."""
        fronts = {0: 0, 1: 0}
        lengths = [len(a), len(b)]
        sides = [
            coins(self.seed, FRONT_OF_A, epoch, index),
            coins(self.seed, FRONT_OF_B, epoch, index),
        ]
        while sum(lengths) > self.max_seq_length - 3:
            longer = 0 if lengths[0] > lengths[1] else 1
            lengths[longer] -= 1
            fronts[longer] += next(sides[longer])
        a_cut, b_cut = self.align(a, fronts[0], lengths[0]), self.align(b, fronts[1], lengths[1])
        return a[a_cut : a_cut + lengths[0]], b[b_cut : b_cut + lengths[1]]

    def align(self, segment: list[int], cut: int, kept: int) -> int:
        """Move a cut within a word to its beginning, unless the word is longer than what is kept."""
        begins = [0, *(i for i in range(1, len(segment)) if self.begins_word(segment[i]))]
        for begin, end in zip(begins, [*begins[1:], len(segment)], strict=True):
            if begin < cut < end and end - begin <= kept:
                return begin
        return cut


@dataclass(frozen=True)
class Pair:
    """An instance without its special tokens."""

    document: int
    index: int
    a: list[int]
    b: list[int]
    label: bool  # B is random, or A and B are swapped

    def input_ids(self, cls_id: int, sep_id: int) -> list[int]:
        return [cls_id, *self.a, sep_id, *self.b, sep_id]


def flatten(sentences: Sequence[Sequence[int]]) -> list[int]:
    return [token for sentence in sentences for token in sentence]
