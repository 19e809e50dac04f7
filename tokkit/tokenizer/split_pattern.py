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
anchors but ``$``, references, lookahead at more than one character, lookbehind. (Program: Thompson's
construction with priorities, as in Russ Cox, "Regular Expression Matching: the Virtual Machine
Approach", 2009.)
"""

import re
from typing import NamedTuple

from tokkit.tokenizer.definitions import GPT2_PATTERN, UnsupportedError

# Escapes that are sets of one character each; others are anchors, references, or mean several.
_SET = re.compile(
    r"\\(?:[sSdDwWhHnrtfae]|[pP]\{\^?[\w ]+\}|x\{[0-9A-Fa-f]{1,6}\}|x[0-7][0-9A-Fa-f]|u[0-9A-Fa-f]{4}|[^\w\s])"
)
_QUANTIFIER = re.compile(r"([?*+]|\{(\d*)(,?)(\d*)\})([?+]?)")
_GROUP = re.compile(r"\((?:\?(i?):|(?!\?))")
_LOOKAHEAD = re.compile(r"\(\?([!=])|\$")
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
_TOO_LONG = "more than 4,096 instructions"
_LAST = "\\z"
_INNER = r"[^\n]"  # "$" matches at the end of a line: where no such character follows


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


# Instructions of a part of a pattern, whose targets are relative, so that parts can be joined.
Part = tuple[Instruction, ...]


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
            UnsupportedError: naming the part.
        """
        self._source = source
        self._place = 0
        ignore_case = source.startswith("(?i)")
        if ignore_case:
            self._place = 4
        node = self._parse_alternatives(ignore_case=ignore_case)
        if self._place < len(source):
            raise UnsupportedError(source[self._place :])
        return self._compile(node, repeat=repeat)

    def add_set(self, source: str, *, repeat: bool = False) -> tuple[Instruction, ...]:
        """Return a program for one character of a set, which need not be a pattern."""
        return self._compile(self._add_set(source), repeat=repeat)

    def _compile(self, part: Part, *, repeat: bool) -> tuple[Instruction, ...]:
        if repeat:
            part = _repeat(part, 1, -1, greedy=True)
        if len(part) >= _MAX_INSTRUCTIONS:
            raise UnsupportedError(_TOO_LONG)
        if _can_be_empty(part):
            raise UnsupportedError("a pattern that matches an empty text")
        program = tuple(
            instruction._replace(targets=tuple(place + step for step in instruction.targets))
            for place, instruction in enumerate((*part, Instruction("match")))
        )
        self._check_folding(program)
        return program

    def _add_set(self, source: str) -> Part:
        if source not in self.sets:
            self.sets.append(source)
        return (Instruction("char", self.sets.index(source), (1,)),)

    def _parse_alternatives(self, *, ignore_case: bool) -> Part:
        first = self._parse_sequence(ignore_case=ignore_case)
        if not self._source.startswith("|", self._place):
            return first
        self._place += 1
        return _choose(first, self._parse_alternatives(ignore_case=ignore_case))

    def _parse_sequence(self, *, ignore_case: bool) -> Part:
        parts: list[Instruction] = []
        while self._place < len(self._source) and self._source[self._place] not in "|)":
            parts += self._parse_repeat(self._parse_item(ignore_case=ignore_case))
        return tuple(parts)

    def _parse_item(self, *, ignore_case: bool) -> Part:
        if match := _LOOKAHEAD.match(self._source, self._place):
            return self._parse_lookahead(match, ignore_case=ignore_case)
        if match := _GROUP.match(self._source, self._place):
            self._place = match.end()
            part = self._parse_alternatives(ignore_case=ignore_case or match[1] == "i")
            self._expect(")")
            return part
        start = self._place
        char = self._source[start]
        if char in "()^?*+{":
            raise UnsupportedError(self._source[start:])
        if char == "[":
            self._place = self._find_class_end(start)
        elif char == "\\":
            self._place = self._find_escape_end(start)
        else:
            self._place += 1
        source = self._source[start : self._place]
        if ignore_case:
            if not source.isascii() or source.startswith(("[^", "\\p", "\\P", "\\x", "\\u")):
                raise UnsupportedError(f"(?i:{source})")
            source = f"(?i:{source})"
        return self._add_set(source)

    def _parse_lookahead(self, match: re.Match[str], *, ignore_case: bool) -> Part:
        self._place = match.end()
        if match[0] == "$":
            part = self._add_set(_INNER)
        else:
            part = self._parse_alternatives(ignore_case=ignore_case)
            self._expect(")")
        if not _is_char(part):
            raise UnsupportedError(self._source[match.start() : self._place])
        if again := _QUANTIFIER.match(self._source, self._place):
            raise UnsupportedError(again[0])
        return (part[0]._replace(kind="follows" if match[1] == "=" else "unless"),)

    def _find_escape_end(self, start: int) -> int:
        match = _SET.match(self._source, start)
        if match is None:
            raise UnsupportedError(self._source[start : start + 2])
        return match.end()

    def _find_class_end(self, start: int) -> int:
        """Return where a set in brackets ends; sets within it may be nested."""
        place = start + 1
        if self._source.startswith("^", place):
            place += 1
        if self._source.startswith("]", place):
            raise UnsupportedError(self._source[start : place + 1])
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
        raise UnsupportedError(self._source[start:])

    def _parse_repeat(self, part: Part) -> Part:
        match = _QUANTIFIER.match(self._source, self._place)
        if match is None:
            return part
        self._place = match.end()
        sign, low, comma, high, suffix = match.groups()
        bounds = {"?": (0, 1), "*": (0, -1), "+": (1, -1)}.get(sign)
        if bounds is None:
            if not low or (suffix and not comma) or suffix == "+":
                raise UnsupportedError(match[0])  # of other meanings in other dialects
            bounds = int(low), int(high) if high else (-1 if comma else int(low))
        least, most = bounds
        again = _QUANTIFIER.match(self._source, self._place)
        is_wrong = most != -1 and not least <= most <= _MAX_REPEATS
        if again or is_wrong or least > _MAX_REPEATS:
            raise UnsupportedError(match[0])
        if suffix != "+":
            return _repeat(part, least, most, greedy=suffix != "?")
        # A possessive one takes as many as there are: it ends where no more follows, or at most.
        if not _is_char(part):
            raise UnsupportedError(match[0])
        end = (part[0]._replace(kind="unless"),)
        return (
            (*_repeat(part, least, most, greedy=True), *end) if most == -1 else _choose(part, end)
        )

    def _expect(self, text: str) -> None:
        if not self._source.startswith(text, self._place):
            raise UnsupportedError(self._source[self._place :] or _LAST)
        self._place += len(text)

    def _check_folding(self, program: tuple[Instruction, ...]) -> None:
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
                        raise UnsupportedError(f"(?i:{pair})")


def _next_characters(program: tuple[Instruction, ...], targets: tuple[int, ...]) -> set[int]:
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


def _is_char(part: Part) -> bool:
    return len(part) == 1 and part[0].kind == "char"


def _split(*targets: int) -> Part:
    return (Instruction("split", targets=targets),)


def _choose(first: Part, other: Part) -> Part:
    """Return what matches the first part, or else the other one."""
    return (*_split(1, len(first) + 2), *first, *_split(len(other) + 1), *other)


def _repeat(part: Part, least: int, most: int, *, greedy: bool) -> Part:
    """Return what matches a part several times, at most ``most``; -1 is any number of times."""
    size = len(part)
    if size * max(least, most) >= _MAX_INSTRUCTIONS:
        raise UnsupportedError(_TOO_LONG)

    def try_more(more: int, done: int) -> Part:
        return _split(more, done) if greedy else _split(done, more)

    if most == -1:
        if _can_be_empty(part):
            raise UnsupportedError("a repeat of what may be empty")
        optional = try_more(1, size + 2) if least == 0 else ()
        return (*optional, *(part * max(least, 1)), *try_more(-size, 1))
    optional = ()
    for number in range(1, most - least + 1):
        optional = (*try_more(1, number * (size + 1)), *part, *optional)
    return (*(part * least), *optional)


def _can_be_empty(part: Part) -> bool:
    """Return whether a part can match without a character."""
    seen, stack = set(), [0]
    while stack:
        place = stack.pop()
        if place == len(part):
            return True
        if place not in seen and part[place].kind != "char":
            stack.extend(place + step for step in part[place].targets)
        seen.add(place)
    return False
