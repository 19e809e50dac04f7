"""Philox4x32-10 in plain integers, as in its paper, and named draws."""

from collections.abc import Iterator

MASK_32 = 0xFFFF_FFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high_0, low_0 = divmod(0xD2511F53 * c0, 1 << 32)
        high_1, low_1 = divmod(0xCD9E8D57 * c2, 1 << 32)
        c0, c1, c2, c3 = high_1 ^ c1 ^ k0, low_1, high_0 ^ c3 ^ k1, low_0
        k0, k1 = (k0 + 0x9E3779B9) & MASK_32, (k1 + 0xBB67AE85) & MASK_32
    return c0, c1, c2, c3


def blocks(seed: int, purpose: int, epoch: int, index: int) -> Iterator[tuple[int, ...]]:
    """Yield the blocks of an index."""
    stream = purpose << 24 | epoch & 0xFF_FFFF
    number = 0
    while True:
        counter = (number, stream, index & MASK_32, index >> 32)
        yield philox4x32(counter, (seed & MASK_32, seed >> 32))
        number += 1


def word(low: int, high: int) -> int:
    return high << 32 | low


def below(bits: int, bound: int) -> int:
    """Return an integer in [0, bound) from 64 bits."""
    return bits * bound >> 64


def happens(lane: int, probability: float) -> bool:
    return lane < round(probability * 2**32)


def coins(seed: int, purpose: int, epoch: int, index: int) -> Iterator[bool]:
    """Yield fair coins: the bits of the blocks, lowest first."""
    for block in blocks(seed, purpose, epoch, index):
        for lane in block:
            for bit in range(32):
                yield bool(lane >> bit & 1)
