"""A tokenizer: how text becomes ids, which ids steer a model, and what tells it from others.

Two tokenizers are the same here if they give the same ids for every text and have the same
control tokens. Their fingerprint is the SHA-256 of the canonical ``tokenizer.json``: as the
library writes it, keys sorted, no white space, and without what changes no ids of plain text
(truncation, padding, post-processor, decoder, offsets; how a control token matches text, since
here it never does). So a vocabulary has one fingerprint whether it was loaded from a
``tokenizer.json``, from a ``vocab.txt`` with the same settings, or from what ``save`` wrote. A
sentencepiece model is told apart by the SHA-256 of its bytes.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokkit.engine.files import canonical_json
from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import (
    SPLIT_DIGITS,
    SPLIT_WORDS,
    check_unknown,
    mark_special_tokens,
    read_entries,
)
from tokkit.tokenizer.loading import TokenizerFiles, read_tokenizer_files
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

if TYPE_CHECKING:
    import sentencepiece
    import tokenizers

_KINDS = {"WordPiece": "wordpiece", "BPE": "bpe", "Unigram": "unigram", "WordLevel": "wordlevel"}
_WITHOUT_EFFECT_ON_IDS = ("version", "truncation", "padding", "post_processor", "decoder")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tokenizer:
    """A tokenizer that was loaded and found sound.

    Attributes:
        path: the file it came from, for errors.
        kind: ``wordpiece``, ``bpe``, ``unigram``, ``wordlevel`` or ``sentencepiece``.
        tokens: the entries, by id.
        special_ids: the ids of ``pad``, ``unk``, ``cls``, ``sep`` and ``mask``, as far as there
            are such entries.
        all_special_ids: every entry that steers a model, those of ``special_ids`` among them; sorted.
        unused_ids: entries such as ``[unused7]``, which stand for nothing yet; sorted.
        fingerprint: 64 hexadecimal digits; see the module.
        definition: the object of its ``tokenizer.json``; empty for sentencepiece.
        config: what ``tokenizer_config.json`` says of it; empty without one.
        library: the tokenizers library's form of it; None for sentencepiece.
        processor: the sentencepiece library's form of it; None for the others.
    """

    path: str
    kind: str
    tokens: tuple[str, ...] = field(repr=False)
    special_ids: Mapping[str, int]
    all_special_ids: tuple[int, ...]
    unused_ids: tuple[int, ...] = field(repr=False)
    fingerprint: str
    definition: Mapping[str, Any] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    library: "tokenizers.Tokenizer | None" = field(repr=False)
    processor: "sentencepiece.SentencePieceProcessor | None" = field(repr=False)

    @property
    def vocab_size(self) -> int:
        """Entries; every id is below it."""
        return len(self.tokens)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids, control tokens by their names, as far as it can be told."""
        numbers = [int(number) for number in ids]
        if self.library is not None:
            return self.library.decode(numbers, skip_special_tokens=False)
        assert self.processor is not None  # noqa: S101  a tokenizer has one or the other
        text: str = self.processor.decode(numbers)
        return text

    def require_special(self, *roles: str) -> None:
        """Refuse to go on without the control tokens that a stage needs.

        Args:
            roles: of ``pad``, ``unk``, ``cls``, ``sep``, ``mask``.

        Raises:
            TokkitError: naming the entry that is missing.
        """
        for role in roles:
            if role not in self.special_ids:
                forms = ROLES[role]
                alike = [t for t in self.tokens if t.casefold() in {f.casefold() for f in forms}]
                has = f" (it has {alike[0]!r}: capitals matter)" if alike else ""
                raise TokkitError(
                    f"{self.path}: no entry {' or '.join(forms)}{has}, which is needed here; "
                    f"use a vocabulary with it, or name it as {role}_token in a "
                    f"tokenizer_config.json beside this file"
                )

    def end_of_text_id(self) -> int:
        """The id of the token that ends a text.

        That is ``eos_token`` of the tokenizer's configuration, else ``<|endoftext|>``, ``<eod>``
        or ``</s>``, else the token that separates segments. It is a special token, or a model could
        not tell it from text.

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
            f"use a tokenizer with one, or name one as eos_token in a tokenizer_config.json next to "
            f"this file"
        )

    def sentinel_ids(self, count: int) -> tuple[int, ...]:
        """The ids of the first ``count`` tokens that stand for corrupted spans.

        Those are ``<extra_id_0>``, ``<extra_id_1>``, … as T5 has them, else the unused tokens.

        Raises:
            TokkitError: if there are fewer.
        """
        found = find_sentinel_ids(self.tokens, self.all_special_ids) or self.unused_ids
        if len(found) < count:
            raise TokkitError(
                f"{self.path}: {len(found)} tokens such as <extra_id_0> or [unused0] can stand for "
                f"spans, but {count} are needed; train a vocabulary with that many "
                f"(--special-token '<extra_id_0>' and so on), or pass a smaller --max-seq-length"
            )
        return found[:count]

    @cached_property
    def pipeline(self) -> str:
        """``bert``, ``byte-level``, or ``other``: what is known of how it cuts words.

        ``bert`` is BERT's normalizer and pre-tokenizer before WordPiece, ``byte-level`` GPT-2's
        pattern before BPE, both also with digits split afterwards, both without added tokens that text is searched for.
        """
        if any(not row["special"] for row in self.definition.get("added_tokens", ())):
            return "other"
        normalizer = (self.definition.get("normalizer") or {}).get("type")
        parts = self._pre_tokenizers
        if (normalizer, self.kind) == ("BertNormalizer", "wordpiece") and parts in (
            [{"type": "BertPreTokenizer"}],
            [{"type": "BertPreTokenizer"}, SPLIT_DIGITS],
        ):
            return "bert"
        if (normalizer, self.kind) == (None, "bpe") and _is_byte_level(parts):
            return "byte-level"
        return "other"

    @property
    def _pre_tokenizers(self) -> list[dict[str, Any]]:
        """The parts of the pre-tokenizer, in order."""
        form = self.definition.get("pre_tokenizer") or {"type": None}
        return list(form["pretokenizers"]) if form["type"] == "Sequence" else [form]

    @property
    def add_prefix_space(self) -> bool:
        """Whether the pre-tokenizer puts a space before a text that has none."""
        return any(part.get("add_prefix_space", False) for part in self._pre_tokenizers)


def load_tokenizer(path: Path) -> Tokenizer:
    """Load a tokenizer in any of the forms that ``tokkit.tokenizer.loading`` reads.

    Args:
        path: a folder or a file.

    Raises:
        TokkitError: where there is none, or one whose ids, entries or model are not sound.
    """
    form = read_tokenizer_files(path)
    return _from_sentencepiece(form) if form.definition is None else make_tokenizer(form)


@contextmanager
def library_threads(number: int) -> Iterator[None]:
    """Let the tokenizers library use so many threads while the block runs; 0 is one, this one.

    It reads its switch from the environment at every call, but makes its pool of threads once in
    a process, as large as the first call found ``RAYON_NUM_THREADS``.
    """
    switches = {
        "TOKENIZERS_PARALLELISM": "true" if number > 1 else "false",
        "RAYON_NUM_THREADS": str(max(number, 1)),
    }
    before = {name: os.environ.get(name) for name in switches}
    os.environ.update(switches)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)  # another thread may have been here
            else:
                os.environ[name] = value


def make_tokenizer(form: TokenizerFiles) -> Tokenizer:
    """Make a tokenizer of the object of a ``tokenizer.json``, as the library understands it."""
    import tokenizers

    path = str(form.path)
    named = named_roles(form.config)
    given = form.definition or {}
    tokens = read_entries(given, path)
    given = mark_special_tokens(given, tokens, list(named.values()))
    # Both would change ids behind a caller's back, and dropout would draw them by chance.
    given = {**given, "truncation": None, "padding": None, "model": dict(given["model"])}
    if "dropout" in given["model"]:
        given["model"]["dropout"] = None
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(given))
    except BaseException as error:
        # The library raises nothing narrower; where it panics, it is not even an Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise TokkitError(
            f"{path}: the tokenizers library does not know such a tokenizer ({error}); "
            f"save it with a release of transformers that uses tokenizers {tokenizers.__version__}"
        ) from error
    library.encode_special_tokens = True
    definition = json.loads(library.to_str())
    model = definition["model"]
    check_unknown(model, tokens, path)
    if model.get("unk_token") is not None:
        named.setdefault("unk", model["unk_token"])
    ids = {token: number for number, token in enumerate(tokens)}
    special_ids = find_special_ids(ids, named)
    control = {row["id"] for row in definition["added_tokens"] if row["special"]}
    return Tokenizer(
        path=path,
        kind=_KINDS[model["type"]],
        tokens=tokens,
        special_ids=special_ids,
        all_special_ids=tuple(sorted(control | set(special_ids.values()))),
        unused_ids=find_unused_ids(tokens),
        fingerprint=hashlib.sha256(_canonical(definition, special_ids)).hexdigest(),
        definition=definition,
        config=form.config,
        library=library,
        processor=None,
    )


def _from_sentencepiece(form: TokenizerFiles) -> Tokenizer:
    """Make a tokenizer of the bytes of a sentencepiece model."""
    import sentencepiece

    path = str(form.path)
    if not form.model:
        raise TokkitError(f"{path}: empty; copy it anew")
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=form.model)
    except RuntimeError as error:
        raise TokkitError(f"{path}: not a sentencepiece model; copy it anew") from error
    tokens = tuple(processor.id_to_piece(number) for number in range(len(processor)))
    ids = {token: number for number, token in enumerate(tokens)}
    special_ids = find_special_ids(ids, {"unk": tokens[processor.unk_id()]})
    control = {
        number
        for number, token in enumerate(tokens)
        if processor.is_control(number) or processor.is_unknown(number) or token in SPECIAL_TOKENS
    }
    return Tokenizer(
        path=path,
        kind="sentencepiece",
        tokens=tokens,
        special_ids=special_ids,
        all_special_ids=tuple(sorted(control | set(special_ids.values()))),
        unused_ids=find_unused_ids(tokens),
        fingerprint=hashlib.sha256(form.model).hexdigest(),
        definition={},
        config=form.config,
        library=None,
        processor=processor,
    )


def _is_byte_level(parts: Sequence[Mapping[str, Any]]) -> bool:
    """Whether pre-tokenizers cut as GPT-2's does: the pattern in ``ByteLevel``, or before it."""
    *before, byte_level = parts
    if byte_level["type"] != "ByteLevel":
        return False
    if not before:
        return bool(byte_level["use_regex"])
    is_known = before in ([SPLIT_WORDS], [SPLIT_WORDS, SPLIT_DIGITS])
    return is_known and not byte_level["use_regex"] and not byte_level["add_prefix_space"]


def _canonical(definition: Mapping[str, Any], special_ids: Mapping[str, int]) -> bytes:
    """The bytes whose SHA-256 tells one tokenizer from another; see the module."""
    form = {key: value for key, value in definition.items() if key not in _WITHOUT_EFFECT_ON_IDS}
    form["added_tokens"] = [
        {"id": row["id"], "content": row["content"], "special": True} if row["special"] else row
        for row in definition["added_tokens"]
    ]
    # An empty prefix or suffix of old files is what None is in newer ones.
    form["model"] = {key: None if value == "" else value for key, value in form["model"].items()}
    form["pre_tokenizer"] = _without_offsets(definition["pre_tokenizer"])
    form["special_ids"] = dict(special_ids)
    return canonical_json(form)


def _without_offsets(form: Any) -> Any:
    """Leave ``trim_offsets`` out of a pre-tokenizer or of any in a sequence of them."""
    if isinstance(form, dict):
        return {key: _without_offsets(form[key]) for key in form if key != "trim_offsets"}
    if isinstance(form, list):
        return [_without_offsets(part) for part in form]
    return form
