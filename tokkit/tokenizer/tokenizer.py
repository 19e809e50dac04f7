"""A tokenizer: its tokens, its special tokens, and the fingerprint that identifies it.

Two tokenizers are the same here if they give the same ids for every text and have the same special
tokens. Their fingerprint is the SHA-256 of the canonical ``tokenizer.json``: as the library writes
it, keys sorted, no white space, and without the parts that do not affect ids of plain text
(truncation, padding, post-processor, decoder, offsets; how a special token matches text, since here
it never does). So a vocabulary has one fingerprint whether it was loaded from a ``tokenizer.json``,
from a ``vocab.txt`` with the same settings, or from what ``save_tokenizer`` wrote. The fingerprint
of a sentencepiece model is the SHA-256 of its bytes, and of its ids where another file has them.

``special_ids`` are part of the fingerprint. A new line in ``ROLES``, or a new spelling, changes the
fingerprint of each tokenizer with such a token, so the folders made with it are out of date.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from tokkit.errors import TokkitError, UsageError
from tokkit.kernels.arrays import Bools
from tokkit.tokenizer.definitions import (
    SPLIT_DIGITS,
    SPLIT_WORDS,
    added_token,
    canonical_definition,
    list_parts,
    mark_special_tokens,
)
from tokkit.tokenizer.file_checks import check_tokens, find_unknown, order_tokens, suggest_case
from tokkit.tokenizer.library_calls import load_library
from tokkit.tokenizer.loading import TokenizerFiles, read_tokenizer_files
from tokkit.tokenizer.sentencepiece_model import (
    PieceProcessor,
    SentencepieceModel,
    load_model,
    read_sentencepiece,
)
from tokkit.tokenizer.special_tokens import (
    ENDS_OF_TEXT,
    ROLES,
    SPECIAL_TOKENS,
    find_sentinel_ids,
    find_special_ids,
    find_unused_ids,
    named_roles,
    named_token,
)
from tokkit.tokenizer.tokenizer_cache import LazyDefinition, digest_files, find_kept, keep

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

log = logging.getLogger(__name__)

_KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram", "WordLevel": "wordlevel"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """A tokenizer that was loaded and checked.

    Attributes:
        path: the file it was loaded from, for errors.
        kind: ``wordpiece``, ``bpe``, ``unigram``, ``wordlevel`` or ``sentencepiece``.
        tokens: tokens, indexed by id; ``[hole 7]`` if no token has the id 7.
        hole_ids: ids without a token, sorted.
        special_ids: ids of the roles that it has, by keys of ``ROLES``.
        all_special_ids: ids of all special tokens, sorted, those of ``special_ids`` included.
        fingerprint: 64 hexadecimal digits; see the module.
        definition: the object of its ``tokenizer.json``; empty for sentencepiece.
        config: ``tokenizer_config.json`` over ``special_tokens_map.json``; empty without them.
        processor: the tokenizer of the sentencepiece library, or what stands for it; None for others.
        digest: identifies the files that it is made of alone; empty if nothing made of it is kept.
    """

    path: str
    kind: str
    tokens: tuple[str, ...] = field(repr=False)
    hole_ids: tuple[int, ...] = field(repr=False, default=())
    special_ids: Mapping[str, int]
    all_special_ids: tuple[int, ...]
    fingerprint: str
    definition: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    processor: "sentencepiece.SentencePieceProcessor | PieceProcessor | None" = field(
        repr=False, default=None
    )
    digest: str = field(repr=False, default="")

    @cached_property
    def library(self) -> "tokenizers.Tokenizer | None":
        """The tokenizer of the tokenizers library, without post-processor; None for sentencepiece."""
        if self.processor is not None:
            return None
        library = load_library({**self.definition, "post_processor": None}, self.path)
        library.encode_special_tokens = True
        return library

    @cached_property
    def model(self) -> SentencepieceModel | None:
        """What its sentencepiece model says; None for others."""
        if self.processor is None:
            return None
        return read_sentencepiece(self.processor.serialized_model_proto())

    @property
    def vocab_size(self) -> int:
        """Largest id plus one: the number of tokens and holes."""
        return len(self.tokens)

    @cached_property
    def unused_ids(self) -> tuple[int, ...]:
        """Sorted ids that have no meaning yet: those of tokens such as ``[unused7]``, and holes."""
        return tuple(sorted((*find_unused_ids(self.tokens), *self.hole_ids)))

    @cached_property
    def forbidden(self) -> Bools:
        """Which tokens text must not become, all special ones but ``unk``: bool ``[vocab_size]``."""
        mask = np.zeros(self.vocab_size, np.bool_)
        mask[list(self.all_special_ids)] = True
        if "unk" in self.special_ids:
            mask[self.special_ids["unk"]] = False
        return mask

    def decode(self, ids: Sequence[int]) -> str:
        """Decode ids, including special tokens."""
        numbers = [int(number) for number in ids]
        if self.library is not None:
            return self.library.decode(numbers, skip_special_tokens=False)
        assert self.processor is not None  # noqa: S101  a tokenizer has one or the other
        text: str = self.processor.decode(numbers)
        return text

    def allow_in_text(self, names: Sequence[str]) -> "Tokenizer":
        """Return a tokenizer that encodes these tokens in text as themselves.

        They are matched as added tokens are. Other special tokens are still encoded as text.

        Args:
            names: special tokens, or any others.

        Raises:
            UsageError: if the tokenizer lacks one, or is a sentencepiece model.
        """
        if not names:
            return self
        if self.library is None:
            raise UsageError(
                f"{self.path}: sentencepiece finds no special tokens in text; leave out "
                f"--allow-special-tokens, or use a folder whose tokenizer_class has them"
            )
        rows = {row["content"]: row for row in self.definition["added_tokens"]}
        for name in names:
            number = self.library.token_to_id(name)
            if number is None:
                raise UsageError(
                    f"--allow-special-tokens: {self.path} has no token {name!r}"
                    f"{suggest_case([name], self.tokens)}"
                )
            row = rows.get(name) or added_token(name, number, special=True)
            rows[name] = {**row, "special": False}
        added = sorted(rows.values(), key=lambda row: row["id"])
        allowed = {row["id"] for row in added if row["content"] in names}
        return replace(
            self,
            definition={**self.definition, "added_tokens": added},
            all_special_ids=tuple(i for i in self.all_special_ids if i not in allowed),
            digest="",
        )

    def require_special(self, *roles: str) -> None:
        """Check that the tokenizer has the special tokens that a stage needs.

        Args:
            roles: keys of ``ROLES``.

        Raises:
            TokkitError: naming the missing token.
        """
        for role in roles:
            if role not in self.special_ids:
                raise TokkitError(
                    f"{self.path}: no token {' or '.join(ROLES[role])}"
                    f"{suggest_case(ROLES[role], self.tokens)}, which is needed here; use a "
                    f"vocabulary with it, or name one as {role}_token in a tokenizer_config.json "
                    f"next to this file"
                )

    def end_of_text_id(self) -> int:
        """Return the id of the token that ends a text.

        That is ``eos_token`` of the tokenizer's configuration, else ``<|endoftext|>``, ``<eod>``
        or ``</s>``, else the token that separates segments. It must be a special token, since a
        model could not distinguish another from text.

        Raises:
            TokkitError: if there is none.
        """
        ids = {self.tokens[number]: number for number in self.all_special_ids}
        for token in (named_token(self.config, "eos"), *ENDS_OF_TEXT):
            if token in ids:
                return ids[token]
        if "sep" in self.special_ids:
            return self.special_ids["sep"]
        raise TokkitError(
            f"{self.path}: no token {', '.join(ENDS_OF_TEXT)} or [SEP] to put between documents; "
            f"use a vocabulary with one, or name one as eos_token in a tokenizer_config.json next "
            f"to this file"
        )

    def sentinel_ids(self, count: int) -> tuple[int, ...]:
        """Return the ids of the first ``count`` tokens that stand for corrupted spans.

        Those are ``<extra_id_0>``, ``<extra_id_1>``, … as T5 has them, else the unused tokens.

        Raises:
            TokkitError: if there are fewer.
        """
        found = find_sentinel_ids(self.tokens, self.all_special_ids) or find_unused_ids(self.tokens)
        if len(found) < count:
            raise TokkitError(
                f"{self.path}: {len(found)} tokens such as <extra_id_0> or [unused0] can stand for "
                f"spans, but {count} are needed; train a vocabulary with that many "
                f"(--special-token '<extra_id_0>' and so on), or pass a smaller --max-seq-length"
            )
        return found[:count]

    @cached_property
    def pipeline(self) -> str:
        """How text is cut into words: ``bert``, ``byte-level`` or ``other``.

        ``bert`` is BERT's normalizer and pre-tokenizer before WordPiece, ``byte-level`` is GPT-2's
        pattern before BPE. In both, digits may be split afterwards, and no added token is searched
        for in text.
        """
        has_added = any(not row["special"] for row in self.definition.get("added_tokens", ()))
        return "other" if has_added else self.word_pipeline

    @cached_property
    def word_pipeline(self) -> str:
        """Same as ``pipeline``, between the added tokens of a text."""
        normalizer = (self.definition.get("normalizer") or {}).get("type")
        *before, last = self.pre_tokenizers
        if (normalizer, self.kind) == ("BertNormalizer", "wordpiece"):
            bert = {"type": "BertPreTokenizer"}
            return "bert" if [*before, last] in ([bert], [bert, SPLIT_DIGITS]) else "other"
        if (normalizer, self.kind, last["type"]) != (None, "bpe", "ByteLevel"):
            return "other"
        # GPT-2's pattern is within ByteLevel, or before it.
        is_known = last["use_regex"]
        if before:
            is_split = before in ([SPLIT_WORDS], [SPLIT_WORDS, SPLIT_DIGITS])
            is_known = is_split and not last["use_regex"] and not last["add_prefix_space"]
        return "byte-level" if is_known else "other"

    @property
    def splits_digits(self) -> bool:
        """Whether the pre-tokenizer makes each digit a word."""
        return SPLIT_DIGITS in self.pre_tokenizers

    @property
    def pre_tokenizers(self) -> list[Mapping[str, Any]]:
        """The parts of the pre-tokenizer, in order."""
        return list_parts(self.definition.get("pre_tokenizer")) or [{"type": None}]


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer from any of the files that ``tokkit.tokenizer.loading`` reads.

    Args:
        path: a folder or a file.

    Raises:
        TokkitError: if there is none, or if its ids, tokens or model are invalid.
    """
    digest = digest_files(path)
    folder = path if path.is_dir() else path.parent
    if (kept := find_kept(digest, "tokenizer")) is not None:
        return Tokenizer(**{**kept, "path": str(folder / kept["path"])})
    files = read_tokenizer_files(path)
    if digest_files(path) != digest:
        digest = ""  # they have changed meanwhile
    if files.definition is None:
        return _make_sentencepiece(files, digest)
    if files.path.suffix != ".json" or files.path.is_dir():
        digest = ""  # loading takes something for granted, and says so
    tokenizer = make_tokenizer(files, digest)
    if tokenizer.digest:
        state = {each.name: getattr(tokenizer, each.name) for each in fields(tokenizer)}
        state |= {"path": files.path.name, "definition": LazyDefinition.of(tokenizer.definition)}
        keep(digest, "tokenizer", state)
    return tokenizer


def make_tokenizer(files: TokenizerFiles, digest: str = "") -> Tokenizer:
    """Make a tokenizer from a parsed ``tokenizer.json``.

    Args:
        files: what was read.
        digest: what identifies these files, if what is made of them may be kept.
    """
    path = str(files.path)
    named = named_roles(files.config)
    data = mark_special_tokens(files.definition or {}, named.values())
    library = load_library(data, path)
    ids = library.get_vocab(with_added_tokens=True)
    tokens, hole_ids = order_tokens(ids, path)
    for row in data["added_tokens"]:
        if row["content"] and row["id"] != ids[row["content"]]:
            digest = ""  # so that the next process says it, too
            log.info(
                "%s: the added token %r has id %d in the file, but %d in the tokenizers library "
                "and transformers, which is used",
                *(path, row["content"], row["id"], ids[row["content"]]),
            )
    library.encode_special_tokens = True
    definition = msgspec.json.decode(library.to_str())
    model = definition["model"]
    unknown = find_unknown(model, tokens, path)
    if unknown is not None and named.get("unk") not in ids:
        named["unk"] = unknown
    special_ids = find_special_ids(ids, named)
    special = {row["id"] for row in definition["added_tokens"] if row["special"]}
    number = ids[unknown] if unknown is not None else None
    is_needed = "ByteLevel" not in str(definition["pre_tokenizer"])
    if is_needed and number in special and number != special_ids["unk"]:
        raise TokkitError(
            f"{path}: unknown characters become the special token {unknown!r}, but unk_token is "
            f"{tokens[special_ids['unk']]!r}; name {unknown!r} there, or use a vocabulary with the "
            f"ids that its class expects"
        )
    tokenizer = Tokenizer(
        path=path,
        kind=_KINDS[model["type"]],
        tokens=tokens,
        hole_ids=hole_ids,
        special_ids=special_ids,
        all_special_ids=tuple(sorted(special.union(special_ids.values()))),
        fingerprint=hashlib.sha256(canonical_definition(definition, special_ids)).hexdigest(),
        definition=definition,
        config=files.config,
        digest=digest,
    )
    library.post_processor = None
    vars(tokenizer)["library"] = library  # made already
    return tokenizer


def _make_sentencepiece(files: TokenizerFiles, digest: str) -> Tokenizer:
    """Make a tokenizer from a sentencepiece model, whose ids may be those of another vocabulary."""
    processor: sentencepiece.SentencePieceProcessor | PieceProcessor
    path = str(files.path)
    hole_ids: tuple[int, ...] = ()
    if files.pieces is not None:
        processor = PieceProcessor(files.pieces)
        ids, special = files.pieces.ids, files.pieces.special_ids
        tokens, hole_ids = order_tokens(ids, path)
        special_ids = find_special_ids(ids, named_roles(files.config))
        fingerprint = files.pieces.fingerprint
        digest = ""
    else:
        from sentencepiece import __version__ as release

        digest = digest and f"{digest} {release}"
        processor = load_model(files.model, path)
        tokens = tuple(processor.id_to_piece(number) for number in range(len(processor)))
        check_tokens(tokens, path)
        ids = {token: number for number, token in enumerate(tokens)}
        special_ids = find_special_ids(ids, {"unk": tokens[processor.unk_id()]})
        special = frozenset(
            number
            for number, token in enumerate(tokens)
            if processor.is_control(number)
            or processor.is_unknown(number)
            or token in SPECIAL_TOKENS
        )
        fingerprint = hashlib.sha256(files.model).hexdigest()
    return Tokenizer(
        path=path,
        kind="sentencepiece",
        tokens=tokens,
        hole_ids=hole_ids,
        special_ids=special_ids,
        all_special_ids=tuple(sorted(special.union(special_ids.values()))),
        fingerprint=fingerprint,
        definition={},
        config=files.config,
        processor=processor,
        digest=digest,
    )
