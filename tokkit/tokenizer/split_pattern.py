r"""Regular expressions of pre-tokenizers, parsed and turned into a program of few instructions.

    \p{N}{1,3}|\s+(?!\S)      0  split 1, 7
                              1  char \p{N}
                              2  split 3, 6          greedy: first try one more
                              3  char \p{N}
                              4  split 5, 6
                              5  char \p{N}
                              6  match
                              7  char \s
                              8  split 7, 9
                              9  unless \S follows
                             10  match

What a set of characters such as ``\p{N}`` or ``[^\r\n]`` contains is not decided here: its source is
kept, and the tokenizers library is asked about each character. So the two cannot disagree.

Patterns are those of Oniguruma, as the library compiles them. What is not known here is refused:
anchors, references, lookahead at more than one character, lookbehind. (Program: Thompson's
construction with priorities, as in Russ Cox, "Regular Expression Matching: the Virtual Machine
Approach", 2009.)
"""

import re
from itertools import pairwise
from typing import NamedTuple

from tokkit.tokenizer.definitions import GPT2_PATTERN

# Escapes that are sets of one character each; others are anchors, references, or mean several.
_SET = re.compile(
    r"\\(?:[sSdDwWhHnrtfae]|[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]{1,6}\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|[^\w\s])"
)
_QUANTIFIER = re.compile(r"([?*+]|\{(\d*)(,?)(\d*)\})([?+]?)")
_GROUP = re.compile(r"\((?:\?(i?):|(?!\?))")
_LOOKAHEAD = re.compile(r"\(\?([!=])")
_POSIX = re.compile(r"\[:\^?\w+:\]")
# Letters that Unicode folds to one character: "ß" matches (?i:ss).
_FOLDED_PAIRS = ("ss", "ff", "fi", "fl", "st")
# Sets that are no patterns.
DIGITS = "Digits"
PUNCTUATION = "Punctuation"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4 = rf"{_ENGLISH}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
# By the models that use them: as in their ``tokenizer.json``, and o200k_base of OpenAI's tiktoken.
SPLIT_PATTERNS = {
    "gpt2": GPT2_PATTERN,
    "gpt4": _GPT4,
    "gpt4o": (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENGLISH}?"
        rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENGLISH}?"
        rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
    ),
    "llama3": _GPT4,
    "qwen": _GPT4.replace("{1,3}", ""),
}
_MAX_REPEATS = 64
_MAX_INSTRUCTIONS = 4096
_LAST = "\\z"


class UnknownPatternError(Exception):
    """A pattern has a part that is not known here; the message is that part."""


class Instruction(NamedTuple):
    """An instruction of a program.

    Attributes:
        kind: ``char``, ``split``, ``follows``, ``unless`` or ``match``.
        characters: number of the set of characters of ``char``, ``follows`` and ``unless``.
        targets: instructions to go on with, the preferred one first.
    """

    kind: str
    characters: int = -1
    targets: tuple[int, ...] = ()


# A node of the syntax tree: its kind and its parts.
Node = tuple[str, tuple["Node | int | bool", ...]]


class PatternParser:
    """Parses patterns that share their sets of characters.

    Attributes:
        sets: sources of the sets, patterns of one character.
    """

    def __init__(self) -> None:
        self.sets: list[str] = []
        self._source = ""
        self._place = 0

    def parse(self, source: str, *, repeat: bool = False) -> tuple[Instruction, ...]:
        """Return the program of a pattern.

        Args:
            source: the pattern.
            repeat: whether matches that follow one another are one match.

        Raises:
            UnknownPatternError: naming the part.
        """
        self._source = source
        self._place = 0
        ignore_case = source.startswith("(?i)")
        if ignore_case:
            self._place = 4
        node = self._parse_alternatives(ignore_case=ignore_case)
        if self._place < len(source):
            raise UnknownPatternError(source[self._place :])
        return self._compile(node, repeat=repeat)

    def add_set(self, source: str, *, repeat: bool = False) -> tuple[Instruction, ...]:
        """Return a program for one character of a set, which need not be a pattern."""
        return self._compile(self._add_set(source), repeat=repeat)

    def _compile(self, node: Node, *, repeat: bool) -> tuple[Instruction, ...]:
        program = _Program()
        program.add(("repeat", (node, 1, -1, True)) if repeat else node)
        if program.can_be_empty(0, program.append("match")):
            raise UnknownPatternError("a pattern that matches an empty text")
        self._check_folding(program.instructions)
        return tuple(program.instructions)

    def _add_set(self, source: str) -> Node:
        if source not in self.sets:
            self.sets.append(source)
        return ("char", (self.sets.index(source),))

    def _parse_alternatives(self, *, ignore_case: bool) -> Node:
        nodes = [self._parse_sequence(ignore_case=ignore_case)]
        while self._source.startswith("|", self._place):
            self._place += 1
            nodes.append(self._parse_sequence(ignore_case=ignore_case))
        return nodes[0] if len(nodes) == 1 else ("alternatives", tuple(nodes))

    def _parse_sequence(self, *, ignore_case: bool) -> Node:
        nodes: list[Node] = []
        while self._place < len(self._source) and self._source[self._place] not in "|)":
            nodes.append(self._parse_repeat(self._parse_item(ignore_case=ignore_case)))
        return ("sequence", tuple(nodes))

    def _parse_item(self, *, ignore_case: bool) -> Node:
        if match := _LOOKAHEAD.match(self._source, self._place):
            self._place = match.end()
            node = self._parse_alternatives(ignore_case=ignore_case)
            self._expect(")")
            while node[0] == "sequence" and len(node[1]) == 1:
                (node,) = node[1]  # type: ignore[assignment]  # a sequence has nodes
            if node[0] != "char":
                raise UnknownPatternError(self._source[match.start() : self._place])
            return ("unless" if match[1] == "!" else "follows", node[1])
        if match := _GROUP.match(self._source, self._place):
            self._place = match.end()
            node = self._parse_alternatives(ignore_case=ignore_case or match[1] == "i")
            self._expect(")")
            return node
        start = self._place
        char = self._source[start]
        if char in "()^$?*+{":
            raise UnknownPatternError(self._source[start:])
        if char == "[":
            self._place = self._find_class_end(start)
        elif char == "\\":
            self._place = self._find_escape_end(start)
        else:
            self._place += 1
        source = self._source[start : self._place]
        if ignore_case:
            if not source.isascii() or source.startswith(("[^", "\\p", "\\P", "\\x", "\\u")):
                raise UnknownPatternError(f"(?i:{source})")
            source = f"(?i:{source})"
        return self._add_set(source)

    def _find_escape_end(self, start: int) -> int:
        match = _SET.match(self._source, start)
        if match is None:
            raise UnknownPatternError(self._source[start : start + 2])
        return match.end()

    def _find_class_end(self, start: int) -> int:
        """Return where a set in brackets ends; sets within it may be nested."""
        place = start + 1
        if self._source.startswith("^", place):
            place += 1
        if self._source.startswith("]", place):
            raise UnknownPatternError(self._source[start : place + 1])
        while place < len(self._source):
            char = self._source[place]
            if char == "]":
                return place + 1
            if match := _POSIX.match(self._source, place):
                place = match.end()
            elif char == "[":
                place = self._find_class_end(place)
            elif char == "\\":
                place = self._find_escape_end(place)
            else:
                place += 1
        raise UnknownPatternError(self._source[start:])

    def _parse_repeat(self, node: Node) -> Node:
        match = _QUANTIFIER.match(self._source, self._place)
        if match is None:
            return node
        self._place = match.end()
        sign, low, comma, high, suffix = match.groups()
        bounds = {"?": (0, 1), "*": (0, -1), "+": (1, -1)}.get(sign)
        if bounds is None:
            if not low or (suffix and not comma) or suffix == "+":
                raise UnknownPatternError(match[0])  # of other meanings in other dialects
            bounds = int(low), int(high) if high else (-1 if comma else int(low))
        least, most = bounds
        again = _QUANTIFIER.match(self._source, self._place)
        is_wrong = most != -1 and not least <= most <= _MAX_REPEATS
        if again or is_wrong or least > _MAX_REPEATS or node[0] in ("unless", "follows"):
            raise UnknownPatternError(match[0])
        repeat: Node = ("repeat", (node, least, most, suffix != "?"))
        if suffix != "+":
            return repeat
        # A possessive one takes as many as there are: it ends where no more follows, or at most.
        if node[0] != "char":
            raise UnknownPatternError(match[0])
        end: Node = ("unless", node[1])
        if most == -1:
            return ("sequence", (repeat, end))
        return ("alternatives", (node, end))

    def _expect(self, text: str) -> None:
        if not self._source.startswith(text, self._place):
            raise UnknownPatternError(self._source[self._place :] or _LAST)
        self._place += len(text)

    def _check_folding(self, program: list[Instruction]) -> None:
        """Refuse letters in a row that one character can match if case is ignored."""
        letters = {
            number: source[4].lower()
            for number, source in enumerate(self.sets)
            if source.startswith("(?i:")
        }
        in_class = {n: source for n, source in enumerate(self.sets) if source.startswith("(?i:[")}
        for instruction in program:
            if instruction.kind != "char" or instruction.characters not in letters:
                continue
            for other in _next_characters(program, instruction.targets):
                if other in letters:
                    pair = letters[instruction.characters] + letters[other]
                    either = {instruction.characters, other} & in_class.keys()
                    if pair in _FOLDED_PAIRS or either:
                        raise UnknownPatternError(f"(?i:{pair})")


def _next_characters(program: list[Instruction], targets: tuple[int, ...]) -> set[int]:
    """Return the sets of characters that can come next from some instructions on."""
    found, seen, stack = set(), set(), list(targets)
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        instruction = program[place]
        if instruction.kind == "char":
            found.add(instruction.characters)
        else:
            stack.extend(instruction.targets)
    return found


class _Program:
    """A program that grows."""

    def __init__(self) -> None:
        self.instructions: list[Instruction] = []

    def append(self, kind: str, characters: int = -1, targets: tuple[int, ...] = ()) -> int:
        """Append an instruction; without targets it goes on with the next one."""
        place = len(self.instructions)
        if place >= _MAX_INSTRUCTIONS:
            raise UnknownPatternError("more than 4,096 instructions")
        if kind not in ("match", "split"):
            targets = (place + 1,)
        self.instructions.append(Instruction(kind, characters, targets))
        return place

    def add(self, node: Node) -> None:
        """Append the instructions of a node."""
        kind, parts = node
        if kind in ("char", "follows", "unless"):
            self.append(kind, parts[0])  # type: ignore[arg-type]  # such a node has a set
        elif kind == "sequence":
            for part in parts:
                self.add(part)  # type: ignore[arg-type]  # a sequence has nodes
        elif kind == "alternatives":
            self._add_alternatives(parts)  # type: ignore[arg-type]  # of nodes
        else:
            self._add_repeat(*parts)  # type: ignore[arg-type]  # as ``_parse_repeat`` makes it

    def can_be_empty(self, start: int, end: int) -> bool:
        """Return whether a program gets from one instruction to another without a character."""
        seen, stack = set(), [start]
        while stack:
            place = stack.pop()
            if place == end:
                return True
            if place not in seen and self.instructions[place].kind != "char":
                stack.extend(self.instructions[place].targets)
            seen.add(place)
        return False

    def _add_alternatives(self, nodes: tuple[Node, ...]) -> None:
        jumps = []
        for node, _ in pairwise(nodes):
            split = self.append("split")
            self.add(node)
            jumps.append(self.append("split"))
            self._point(split, (split + 1, len(self.instructions)))
        self.add(nodes[-1])
        for jump in jumps:
            self._point(jump, (len(self.instructions),))

    def _add_repeat(self, node: Node, least: int, most: int, is_greedy: bool) -> None:  # noqa: FBT001  parts of a node
        for _ in range(least):
            start = len(self.instructions)
            self.add(node)
        if most == -1:
            if least == 0:
                split = self.append("split")
                start = len(self.instructions)
                self.add(node)
            again = self.append("split")
            self._point(again, self._order(start, again + 1, is_greedy))
            if least == 0:
                self._point(split, self._order(start, again + 1, is_greedy))
            if self.can_be_empty(start, again):
                raise UnknownPatternError("a repeat of what may be empty")
            return
        splits = []
        for _ in range(most - least):
            splits.append(self.append("split"))
            self.add(node)
        for split in splits:
            self._point(split, self._order(split + 1, len(self.instructions), is_greedy))

    def _order(self, more: int, done: int, is_greedy: bool) -> tuple[int, int]:  # noqa: FBT001  of a node
        return (more, done) if is_greedy else (done, more)

    def _point(self, place: int, targets: tuple[int, ...]) -> None:
        self.instructions[place] = Instruction("split", targets=targets)
