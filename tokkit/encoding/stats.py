"""How fast an ``encode`` went, and how often the cache of words knew the answer."""

import time
from collections import defaultdict
from dataclasses import dataclass, field

from tokkit.engine.unit import UnitResult

BYTES = "bytes"
SECONDS = "seconds"
CHUNK_HITS = "chunk_hits"
CHUNK_MISSES = "chunk_misses"
WORD_HITS = "word_hits"
WORD_MISSES = "word_misses"
# In the order of ``tokkit.kernels.wordcache``.
COUNTERS = (CHUNK_HITS, CHUNK_MISSES, WORD_HITS, WORD_MISSES)


@dataclass
class EncodeStats:
    """What was measured in this run; units that were done before do not count.

    Attributes:
        measured: by name: ``bytes`` of sentences and the ``seconds`` that encoders took for them,
            summed over workers; hits and misses of the cache.
        num_tokens: that came of them.
        seconds: from the first to the last, reading and writing included.
    """

    measured: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    num_tokens: int = 0
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def add(self, result: UnitResult) -> None:
        """Count a unit."""
        for name, number in result.measured.items():
            self.measured[name] += number
        self.num_tokens += result.tokens
        self.seconds = time.monotonic() - self._started

    def as_dict(self) -> dict[str, float]:
        """The figures, and the rates that follow from them; nothing where nothing was encoded."""
        if not self.num_tokens:
            return {}
        measured = self.measured
        return {
            "bytes": measured[BYTES],
            "tokens": self.num_tokens,
            "seconds": self.seconds,
            "bytes_per_second": measured[BYTES] / self.seconds,
            "tokens_per_second": self.num_tokens / self.seconds,
            "encoder_bytes_per_second": measured[BYTES] / measured[SECONDS],
            "chunk_hit_rate": _share(measured[CHUNK_HITS], measured[CHUNK_MISSES]),
            "word_hit_rate": _share(measured[WORD_HITS], measured[WORD_MISSES]),
        }


def _share(part: float, rest: float) -> float:
    return part / (part + rest) if part + rest else 0.0
