"""What google-research/bert's ``create_pretraining_data.py`` does, with documents of ids.

A port of its behaviour, including its faults: a random segment may be from A's own document after
ten draws, a front cut may halve a word, replacements come from the whole vocabulary. It draws from
one generator in the order of the script, so it samples from the same distribution, and does about
the same work per instance: benchmarks use it as the peer. (The script works on strings and turns
them into ids at the end, so the port is faster.)
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Document = Sequence[Sequence[int]]


@dataclass(frozen=True)
class Instance:
    """An instance; ``input_ids`` are masked, ``a_length`` is that of A without special tokens."""

    input_ids: list[int]
    a_length: int
    is_random: bool
    masked_positions: list[int]
    masked_labels: list[int]


@dataclass(frozen=True)
class Script:
    """The script's options, and ids in place of its tokens."""

    max_seq_length: int
    max_predictions_per_seq: int
    short_seq_prob: float
    masked_lm_prob: float
    vocab_size: int
    cls_id: int
    sep_id: int
    mask_id: int

    def run(self, documents: Sequence[Document], *, dupe_factor: int, seed: int) -> list[Instance]:
        """Return all instances, shuffled."""
        rng = random.Random(seed)  # noqa: S311  no secret is made of it
        shuffled = list(documents)
        rng.shuffle(shuffled)
        instances = [
            instance
            for _ in range(dupe_factor)
            for number in range(len(shuffled))
            for instance in self.visit(shuffled, number, rng)
        ]
        rng.shuffle(instances)
        return instances

    def visit(
        self, documents: Sequence[Document], number: int, rng: random.Random
    ) -> Iterator[Instance]:
        """Yield the instances of one document."""
        document = documents[number]
        target = self.max_seq_length - 3
        if rng.random() < self.short_seq_prob:
            target = rng.randint(2, target)
        first = sentence = length = 0
        while sentence < len(document):
            length += len(document[sentence])
            sentence += 1
            if sentence < len(document) and length < target:
                continue
            a_end = first + (rng.randint(1, sentence - first - 1) if sentence - first > 1 else 1)
            a = [token for part in document[first:a_end] for token in part]
            is_random = sentence - first == 1 or rng.random() < 0.5
            if is_random:
                b = self.random_segment(documents, number, target - len(a), rng)
                sentence = a_end
            else:
                b = [token for part in document[a_end:sentence] for token in part]
            self.truncate(a, b, rng)
            yield self.mask(a, b, rng, is_random=is_random)
            first, length = sentence, 0

    def random_segment(
        self, documents: Sequence[Document], own: int, target: int, rng: random.Random
    ) -> list[int]:
        """Return whole sentences of another document, if one is found in ten draws."""
        for _ in range(10):
            source = rng.randint(0, len(documents) - 1)
            if source != own:
                break
        document = documents[source]
        segment: list[int] = []
        for part in document[rng.randint(0, len(document) - 1) :]:
            segment.extend(part)
            if len(segment) >= target:
                break
        return segment

    def truncate(self, a: list[int], b: list[int], rng: random.Random) -> None:
        """Remove a token of the longer one (ties: B), at the front or the back, while too long."""
        while len(a) + len(b) > self.max_seq_length - 3:
            longer = a if len(a) > len(b) else b
            longer.pop(0 if rng.random() < 0.5 else -1)

    def mask(self, a: list[int], b: list[int], rng: random.Random, *, is_random: bool) -> Instance:
        """Assemble a pair and mask it."""
        input_ids = [self.cls_id, *a, self.sep_id, *b, self.sep_id]
        candidates = [
            position
            for position, token in enumerate(input_ids)
            if token not in (self.cls_id, self.sep_id)
        ]
        rng.shuffle(candidates)
        wanted = max(1, round(len(input_ids) * self.masked_lm_prob))
        chosen = sorted(candidates[: min(self.max_predictions_per_seq, wanted)])
        labels = [input_ids[position] for position in chosen]
        for position in chosen:
            if rng.random() < 0.8:
                input_ids[position] = self.mask_id
            elif rng.random() >= 0.5:
                input_ids[position] = rng.randint(0, self.vocab_size - 1)
        return Instance(input_ids, len(a), is_random, chosen, labels)
