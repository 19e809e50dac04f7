r"""How a pre-tokenizer cuts text into pieces, as automata for ``tokkit.kernels.encode.split_text``.

A part of a pre-tokenizer is a level: a pattern, and what is done with its matches and with the text
between them:

    Split \p{N}{1,3}, Isolated             both are pieces
    Split GPT-4's, Removed and inverted    only matches are pieces
    Digits                                 each digit is a piece
    ByteLevel                              GPT-2's pattern

Classes of characters are learned from the library, in pages of 256, when a text has them. From the
automata follows between which classes every text can be cut: where no piece extends from one to the
other, and neither side can tell whether the other is there.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Bools, Int64, UInt16
from tokkit.kernels.encode import split_text
from tokkit.kernels.encode.cut_rules import NUM_CLASSES, UNSEEN, new_cut_rules
from tokkit.kernels.encode.split_text import Splitter
from tokkit.tokenizer.characters import UNICODE_SIZE, page_of
from tokkit.tokenizer.definitions import (
    GPT2_PATTERN,
    UnsupportedError,
    byte_level_alphabet,
    list_parts,
)
from tokkit.tokenizer.split_pattern import (
    DIGITS,
    PUNCTUATION,
    Instruction,
    PatternParser,
)

_MAX_STATES = 1 << 14

# A state: the instructions from which a match can go on, the preferred one first.
_State = tuple[int, ...]


@dataclass
class Level:
    """A level and its automaton; state 0 is dead, and state 1 the first.

    Attributes:
        program: its pattern.
        drop: ``KEEP``, ``DROP_MATCHES`` or ``DROP_OTHERS``.
        spells: whether it reads the characters that stand for bytes, since it comes after ByteLevel.
        states: by number.
        steps: for each state the next one, plus ``MATCH``, by class.
    """

    program: tuple[Instruction, ...]
    drop: int
    spells: bool
    states: list[_State] = field(default_factory=lambda: [(), (0,)])
    steps: list[dict[int, int]] = field(default_factory=lambda: [{}])

    def extend(self, members: Mapping[int, int]) -> None:
        """Add the steps, and the states that they lead to, of new classes."""
        numbers = {state: number for number, state in enumerate(self.states)}
        number = 1
        while number < len(self.states):
            if number == len(self.steps):
                self.steps.append({})
            steps = self.steps[number]
            for kind in members.keys() - steps.keys():
                is_match, state = self._step(self.states[number], members[kind])
                if state not in numbers:
                    numbers[state] = len(self.states)
                    self.states.append(state)
                steps[kind] = numbers[state] + split_text.MATCH * is_match
            number += 1
            if number > _MAX_STATES:
                raise TokkitError(
                    "the pattern of this tokenizer has too many states to encode with"
                )

    def _step(self, state: _State, members: int) -> tuple[bool, _State]:
        """Return whether a match ends before a character, and the state after it.

        Args:
            state: the state before it.
            members: a bit for each set that has the character.
        """
        seen: set[int] = set()
        found: list[int] = []
        stack = list(reversed(state))
        while stack:
            place = stack.pop()
            if place in seen:
                continue
            seen.add(place)
            kind, characters, targets = self.program[place]
            if kind == "match":
                return True, tuple(found)
            is_member = bool(members >> characters & 1) if characters >= 0 else True
            if kind == "char":
                found.extend(targets if is_member else ())
            elif is_member != (kind == "unless"):
                stack.extend(reversed(targets))
        return False, tuple(found)


class TextSplitter:
    """The automata of a pre-tokenizer, which grow with the classes of characters.

    Args:
        pre_tokenizer: its definition.

    Attributes:
        tables: the automata and classes, for kernels.

    Raises:
        UnsupportedError: naming what is not known.
    """

    def __init__(self, pre_tokenizer: Mapping[str, Any]) -> None:
        parser = PatternParser()
        self._levels = list(read_levels(pre_tokenizer, parser))
        self._alphabet = np.array(list(map(ord, byte_level_alphabet())), np.int64)
        self._is_ascii = 1 << len(parser.sets)
        self._sets = [_make_set(source) for source in (*parser.sets, r"[\x{0}-\x{7f}]")]
        self._members = {split_text.END_OF_TEXT: 0}
        self._classes = np.full(UNICODE_SIZE, UNSEEN, np.uint8)
        self.learn_page(0)
        self.learn_page(int(self._alphabet.max()))

    def learn_page(self, code: int) -> None:
        """Fill in a character and those on its page."""
        page = page_of(code)
        text = "".join(map(chr, page))
        members = np.zeros(len(page), np.int64)
        for number, (isolate, join) in enumerate(self._sets):
            # Runs of characters in the set take turns with those of others. Which come first shows
            # with two of the first character, which are parted if it is in the set.
            first = len(isolate.pre_tokenize_str(2 * text[0])) == 1
            for start, stop in (span for _, span in join.pre_tokenize_str(text)[first::2]):
                members[start:stop] |= 1 << number
        classes = {
            found: kind for kind, found in self._members.items() if kind != split_text.END_OF_TEXT
        }
        for found in sorted({*members.tolist()}):
            if found not in classes:
                classes[found] = len(classes) + 1
                if classes[found] >= split_text.END_OF_TEXT:
                    raise TokkitError(
                        "the patterns of this tokenizer tell too many characters apart"
                    )
        self._classes[page] = [classes[found] for found in members.tolist()]
        if len(classes) >= len(self._members):
            self._members.update({kind: found for found, kind in classes.items()})
            self._extend()

    def is_always_cut(self, text: bytes) -> bool:
        """Return whether a text is in no case within one piece."""
        codes = [ord(char) for char in text.decode(errors="replace")]
        for code in codes:
            if self._classes[code] == UNSEEN:
                self.learn_page(code)
        allowed, classes = self.tables.rules.allowed, self._classes[codes]
        return bool(allowed[classes[:-1], classes[1:]].any())

    def _extend(self) -> None:
        """Recreate the tables for more classes."""
        for level in self._levels:
            level.extend(self._members)
        starts = np.cumsum([0, *(len(level.states) - 1 for level in self._levels)])
        transitions = np.zeros((int(starts[-1]) + 1, NUM_CLASSES), np.uint16)
        kinds = sorted(self._members)
        for level, first in zip(self._levels, starts.tolist(), strict=False):
            for number, steps in enumerate(level.steps[1:], first + 1):
                for kind, step in steps.items():
                    state = step & ~split_text.MATCH
                    transitions[number, kind] = (first + state if state else 0) | (
                        step & split_text.MATCH
                    )
        seen = np.array([kind for kind in kinds if kind != split_text.END_OF_TEXT])
        allowed, allowed_runs = self._find_rules(transitions, starts, seen)
        self.tables = Splitter(
            rules=new_cut_rules(self._classes, allowed, allowed_runs),
            transitions=transitions.ravel(),
            starts=starts[:-1] + 1,
            drops=np.array([level.drop for level in self._levels], np.int64),
            spells=np.array([level.spells for level in self._levels], np.bool_),
            alphabet=self._alphabet,
            ends=np.zeros(len(self._levels), np.int64),
        )

    def _find_rules(self, transitions: UInt16, starts: Int64, kinds: Int64) -> tuple[Bools, Bools]:
        r"""Return where texts can be cut; see ``CutRules``.

        They can where, at each level, all ways of matching end, and end as they do at the end of a
        text; and where at one level at least either character is always in a match, so that they do
        not lie together between two matches. Before a space, ways that go on may also end behind it,
        as ``\s+(?!\S)`` does, which then takes what is before the space: but with one level alone,
        since another one may end the text behind the space.
        """
        nexts, is_match = (
            transitions & ~np.uint16(split_text.MATCH),
            transitions & split_text.MATCH != 0,
        )
        is_end = is_match[:, split_text.END_OF_TEXT]
        ends_same = (nexts == split_text.DEAD) & (is_match == is_end[:, None])
        rules = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
        rules[np.ix_(kinds, kinds)] = True
        runs = rules.copy()
        is_covered = np.zeros(NUM_CLASSES, np.bool_)
        ends = [*kinds.tolist(), split_text.END_OF_TEXT]
        space = self._classes[ord(" ")]
        # By the state before the space, and the class behind it: whether the match ends before it.
        behind = nexts[:, space]
        falls_back = (is_match[:, space] & is_end)[:, None]
        falls_back = falls_back & (nexts[behind] == split_text.DEAD) & ~is_match[behind]
        for level, (start, stop) in zip(self._levels, pairwise(starts.tolist()), strict=True):
            own, own_runs = np.zeros_like(rules), np.zeros_like(rules)
            for kind in kinds.tolist():
                # Sets instead of np.unique, which would import numpy.ma: that takes 10 ms.
                after = sorted({*nexts[start + 1 : stop + 1, kind].tolist()} - {split_text.DEAD})
                own[kind] = ends_same[after].all(axis=0)
                own_runs[kind] = (falls_back[after] | ends_same[after, space][:, None]).all(axis=0)
            runs &= own_runs & (len(self._levels) == 1)
            if level.spells:
                rules &= self._spell(own, kinds)
                continue
            rules &= own
            first = nexts[start + 1]
            always = is_match[first[kinds]][:, ends].all(axis=1)
            is_covered[kinds] |= (first[kinds] != split_text.DEAD) & always
        rules &= is_covered[:, None] | is_covered
        runs &= (is_covered | is_covered[space])[:, None]
        rules[split_text.END_OF_TEXT] = rules[:, split_text.END_OF_TEXT] = False
        return rules, runs

    def _spell(self, rules: Bools, kinds: Int64) -> Bools:
        """Return rules for characters, from those for the characters that stand for their bytes.

        Only between two characters of ASCII is a cut allowed.
        """
        is_ascii = np.zeros(NUM_CLASSES, np.bool_)
        is_ascii[[kind for kind in kinds.tolist() if self._members[kind] & self._is_ascii]] = True
        spelled = is_ascii[:, None] & is_ascii
        own, stands = self._classes[:128], self._classes[self._alphabet[:128]]
        pairs = {*zip(own.tolist(), stands.tolist(), strict=True)}
        for left, left_stands in pairs:
            for right, right_stands in pairs:
                spelled[left, right] &= rules[left_stands, right_stands]
        return spelled


def read_levels(pre_tokenizer: Mapping[str, Any] | None, parser: PatternParser) -> Iterator[Level]:
    """Read the levels of a pre-tokenizer of byte-level BPE.

    Raises:
        UnsupportedError: naming the part that is not known.
    """
    spells = False
    for part in list_parts(pre_tokenizer):
        if part["type"] == "ByteLevel":
            if part["use_regex"]:
                yield Level(parser.parse(GPT2_PATTERN), split_text.KEEP, spells)
            spells = True
        elif part["type"] in ("Split", DIGITS, PUNCTUATION):
            yield Level(*_read_level(part, parser), spells)
        else:
            raise UnsupportedError(f"the pre-tokenizer {part['type']}")


def _read_level(
    part: Mapping[str, Any], parser: PatternParser
) -> tuple[tuple[Instruction, ...], int]:
    """Return the program of a level, and what it drops."""
    kind, behavior = part["type"], part.get("behavior")
    if kind == DIGITS:
        behavior = "Isolated" if part["individual_digits"] else "Contiguous"
    if behavior not in ("Isolated", "Contiguous", "Removed"):
        raise UnsupportedError(f"the behavior {behavior}")
    drop = split_text.KEEP
    if behavior == "Removed":
        drop = split_text.DROP_OTHERS if part.get("invert") else split_text.DROP_MATCHES
    repeat = behavior == "Contiguous"
    if kind != "Split":
        return parser.add_set(kind, repeat=repeat), drop
    source = part["pattern"].get("Regex")
    if source is None:
        source = "".join(rf"\x{{{ord(char):x}}}" for char in part["pattern"]["String"])
    return parser.parse(source, repeat=repeat), drop


def _make_set(source: str) -> tuple[Any, Any]:
    """Return pre-tokenizers that make each character of a set, and each run of them, a piece."""
    from tokenizers import Regex, pre_tokenizers

    if source == DIGITS:
        return pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Digits()
    if source == PUNCTUATION:
        return pre_tokenizers.Punctuation("isolated"), pre_tokenizers.Punctuation("contiguous")
    pattern = Regex(source)
    return pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.Split(pattern, "contiguous")
