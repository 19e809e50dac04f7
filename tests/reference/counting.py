"""A slow, readable twin of counting: the library's normalizer and pre-tokenizer, and a Counter."""

from collections import Counter

from tokenizers import Regex
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Digits, Sequence, Split, WhitespaceSplit

from tokkit.vocab.train_config import TrainConfig

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def count_words(config: TrainConfig, texts: list[str]) -> Counter[bytes]:
    """Count the words of texts."""
    normalizer = BertNormalizer(lowercase=not config.cased, strip_accents=config.strip_accents)
    parts = {
        "wordpiece": BertPreTokenizer(),
        "bpe": Split(Regex(GPT2_PATTERN), "isolated"),
        "unigram": WhitespaceSplit(),
    }
    splits = config.split_digits and config.model != "unigram"  # sentencepiece does it itself
    digits = [Digits(individual_digits=True)] if splits else []
    pre_tokenizer = Sequence([parts[config.model], *digits])
    counts: Counter[bytes] = Counter()
    for text in texts:
        normalized = normalizer.normalize_str(text) if config.model == "wordpiece" else text
        counts.update(word.encode() for word, _ in pre_tokenizer.pre_tokenize_str(normalized))
    return counts
