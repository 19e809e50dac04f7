"""Loads, stores and bit operations that Numba has no name for, and UTF-8.

A word is eight bytes of an array as an unsigned number, first byte lowest (every processor that
Numba compiles for here is little-endian). It may begin at any byte. Nothing checks whether a load
or store lies within its array; where an array can end early, use the ``_last`` variants.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir

from tokkit.kernels.arrays import Bytes, Ids
from tokkit.kernels.jit import inline, instruction, splice

# Odd multipliers that spread keys over the high bits of a hash.
HASH_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
HASH_PRIME_2 = np.uint64(0xD6E8_FEB8_6659_FD93)

_BLOCK = 64
_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)


def _convert_to_signed(types: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.cast(builder, arguments[0], number, types.int64)

    return types.int64(number), generate


# ``signed(number)`` converts to int64: Numba makes floats of signed and unsigned numbers together.
signed: Callable[[Any], int] = instruction(_convert_to_signed)


def _address(builder: Any, context: Any, array_type: Any, array: Any, position: Any) -> Any:
    """Return the address of an element of a contiguous array, as the address of a byte."""
    from tokkit.kernels.bare_arrays import find_data

    data = find_data(context, builder, array_type, array)
    return builder.bitcast(builder.gep(data, [position]), _BYTE.as_pointer())


def _copy_bytes(builder: Any, target: Any, source: Any, number: Any, size: int) -> None:
    """Copy ``number`` elements of ``size`` bytes from one address to another."""
    kinds = [_BYTE.as_pointer(), _BYTE.as_pointer(), _WORD]
    copy = builder.module.declare_intrinsic("llvm.memcpy", kinds)
    is_volatile = ir.Constant(ir.IntType(1), 0)
    num_bytes = builder.mul(number, ir.Constant(_WORD, size))
    builder.call(copy, [target, source, num_bytes, is_volatile])


@instruction
def load_word(types: Any, values: Any, position: Any) -> Any:
    """``load_word(values, position)`` returns the word at ``values[position:position + 8]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments)
        return builder.load(builder.bitcast(address, _WORD.as_pointer()), align=1)

    return types.uint64(values, types.int64), generate


@instruction
def store_word(types: Any, values: Any, position: Any, word: Any) -> Any:
    """``store_word(values, position, word)`` writes to ``values[position:position + 8]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(address, _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.uint64), generate


@instruction
def find_small_bytes(types: Any, values: Any, position: Any, limit: Any) -> Any:
    """``find_small_bytes(values, position, limit)`` returns a bit for each of 64 bytes below a limit.

    The result of a vector comparison, taken as a number: with AVX2 two comparisons and two
    ``vpmovmskb``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments[:2])
        block = ir.VectorType(_BYTE, 64)
        loaded = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        limits = _repeat(builder, builder.trunc(arguments[2], _BYTE), block)
        return builder.bitcast(builder.icmp_unsigned("<", loaded, limits), _WORD)

    return types.uint64(values, types.int64, types.int64), generate


@instruction
def find_wide_marks(types: Any, values: Any, position: Any) -> Any:
    """``find_wide_marks(values, position)`` returns a bit for each of 64 bytes, one more must follow.

    A bit is set where a character from U+3000 to U+303F, CJK punctuation, or from U+FF00 to U+FF3F
    begins, its full-width forms. See ``find_small_bytes``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        block = ir.VectorType(_BYTE, 64)
        address = _address(builder, context, signature.args[0], *arguments)
        first = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        address = builder.gep(address, [_WORD(1)])
        second = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        found = [
            builder.and_(
                *(
                    builder.icmp_unsigned("==", loaded, _repeat(builder, _BYTE(byte), block))
                    for loaded, byte in zip((first, second), pair, strict=True)
                )
            )
            for pair in ((0xE3, 0x80), (0xEF, 0xBC))
        ]
        return builder.bitcast(builder.or_(*found), _WORD)

    return types.uint64(values, types.int64), generate


@instruction
def find_either(types: Any, values: Any, position: Any, first: Any, second: Any) -> Any:
    """``find_either(values, position, first, second)`` returns a bit for each of 64 values.

    A bit is set where the value equals ``first`` or ``second``, both taken modulo the size of the
    values. See ``find_small_bytes``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments[:2])
        lane = context.get_data_type(values.dtype)
        block = ir.VectorType(lane, 64)
        loaded = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        equal = [
            builder.icmp_unsigned("==", loaded, _repeat(builder, builder.trunc(value, lane), block))
            for value in arguments[2:]
        ]
        return builder.bitcast(builder.or_(*equal), _WORD)

    return types.uint64(values, types.int64, types.int64, types.int64), generate


def _repeat(builder: Any, value: Any, block: Any) -> Any:
    """Return a vector that holds one value everywhere."""
    first = builder.insert_element(ir.Constant(block, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), block.count), [0] * block.count)
    return builder.shuffle_vector(first, first, lanes)


@instruction
def prefetch(types: Any, values: Any, position: Any) -> Any:
    """``prefetch(values, position)`` starts to fetch the cache line of an element for reading."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments)
        kind = ir.IntType(32)
        pointer = _BYTE.as_pointer()
        function = builder.module.declare_intrinsic(
            "llvm.prefetch", [pointer], ir.FunctionType(ir.VoidType(), [pointer, kind, kind, kind])
        )
        builder.call(function, [address, kind(0), kind(3), kind(1)])
        return context.get_dummy_value()

    return types.void(values, types.int64), generate


@instruction
def multiply_fold(types: Any, left: Any, right: Any) -> Any:
    """``multiply_fold(left, right)`` returns the high word of a product of 128 bits xor the low one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(*(builder.zext(argument, wide) for argument in arguments))
        high = builder.trunc(builder.lshr(product, wide(64)), _WORD)
        return builder.xor(high, builder.trunc(product, _WORD))

    return types.uint64(types.uint64, types.uint64), generate


@instruction
def trailing_zeros(types: Any, word: Any) -> Any:
    """``trailing_zeros(word)`` returns the index of the lowest bit that is set, 64 for none."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@instruction
def reverse_bytes(types: Any, word: Any) -> Any:
    """``reverse_bytes(word)`` returns the word whose first byte is the last one of ``word``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bswap(arguments[0])

    return types.uint64(types.uint64), generate


@instruction
def count_ones(types: Any, word: Any) -> Any:
    """``count_ones(word)`` returns the number of bits that are set."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@instruction
def copy_values(
    types: Any, values: Any, start: Any, out_values: Any, out_start: Any, number: Any
) -> Any:
    """``copy_values(values, start, out_values, out_start, number)`` copies between arrays.

    Both have the same type. Three times as fast as an assignment of slices, where these have some
    hundred bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _address(builder, context, signature.args[0], *arguments[:2])
        target = _address(builder, context, signature.args[2], *arguments[2:4])
        size = context.get_abi_sizeof(context.get_data_type(values.dtype))
        _copy_bytes(builder, target, source, arguments[4], size)
        return context.get_dummy_value()

    return types.void(values, types.int64, out_values, types.int64, types.int64), generate


@instruction
def copy_from(types: Any, address: Any, out_values: Any, out_start: Any, number: Any) -> Any:
    """``copy_from(address, out_values, out_start, number)`` copies elements from an address.

    The address is an integer and may be that of any byte. Elements have the type of
    ``out_values``. With it one kernel reads from any number of arrays.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        target = _address(builder, context, signature.args[1], *arguments[1:3])
        size = context.get_abi_sizeof(context.get_data_type(out_values.dtype))
        _copy_bytes(builder, target, source, arguments[3], size)
        return context.get_dummy_value()

    return types.void(types.int64, out_values, types.int64, types.int64), generate


def _make_load(num_bits: int) -> Any:
    def load(types: Any, address: Any) -> Any:
        kind = ir.IntType(num_bits)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.load(builder.inttoptr(arguments[0], kind.as_pointer()), align=1)

        return getattr(types, f"int{num_bits}")(types.int64), generate

    return instruction(load)


# ``int8_at(address)`` returns the number at an address, which is an integer and may be that of any byte.
int8_at, int32_at, int64_at = _make_load(8), _make_load(32), _make_load(64)


@instruction
def bytes_at(types: Any, address: Any, number: Any) -> Any:
    """``bytes_at(address, number)`` returns the bytes from an address on, as an array."""
    from tokkit.kernels.bare_arrays import BareArray, make_bytes

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return make_bytes(context, builder, *arguments)

    return BareArray(types.uint8, 1)(types.int64, types.int64), generate


@instruction
def item_bytes(types: Any, values: Any) -> Any:
    """``item_bytes(values)`` returns the size of an element as a constant.

    ``values.itemsize`` is a field of the array: to divide by it took 7% of the time of English.
    """

    def generate(context: Any, _builder: Any, _signature: Any, _arguments: Any) -> Any:
        return ir.Constant(_WORD, context.get_abi_sizeof(context.get_data_type(values.dtype)))

    return types.int64(values), generate


@inline
def load_last_word(values: Bytes, position: int) -> np.uint64:
    """Return what ``load_word`` does, with zeros for bytes beyond the end of the array."""
    word = np.uint64(0)
    for index in range(min(values.size, position + 8) - 1, position - 1, -1):
        word = (word << np.uint64(8)) | np.uint64(values[index])
    return word


@inline
def find_last_small_bytes(values: Bytes, position: int, limit: int) -> np.uint64:
    """Return what ``find_small_bytes`` does, where the array may end before 64 bytes."""
    small = np.uint64(0)
    for index in range(position, min(values.size, position + 64)):
        small |= np.uint64(values[index] < limit) << np.uint64(index - position)
    return small


@splice
def find_small(values: Bytes, position: int, stop: int, limit: int) -> np.uint64:
    """Return a bit for each of 64 bytes from ``position`` on, set if below a limit or at ``stop``."""
    small: np.uint64
    if position + _BLOCK <= values.size:
        small = find_small_bytes(values, position, limit)
    else:
        small = find_last_small_bytes(values, position, limit)
    if stop - position < _BLOCK:
        last = np.uint64(1) << np.uint64(stop - position)
        small = (small & (last - np.uint64(1))) | last
    return small


@inline
def find_last_either(values: Ids, position: int, first: int, second: int) -> np.uint64:
    """Return what ``find_either`` does, where the array may end before 64 values."""
    found = np.uint64(0)
    for index in range(position, min(values.size, position + 64)):
        is_either = (values[index] == first) | (values[index] == second)
        found |= np.uint64(is_either) << np.uint64(index - position)
    return found


@splice
def decode_character(values: Bytes, position: int) -> tuple[int, int]:
    """Return the code point that begins at a byte, and its length in bytes; UTF-8 must be valid."""
    byte = signed(values[position])
    if byte < 0x80:
        return byte, 1
    second = signed(values[position + 1]) & 0x3F
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | second, 2
    third = signed(values[position + 2]) & 0x3F
    if byte < 0xF0:
        return (byte & 0xF) << 12 | second << 6 | third, 3
    fourth = signed(values[position + 3]) & 0x3F
    return (byte & 7) << 18 | second << 12 | third << 6 | fourth, 4


@inline
def write_character(out_values: Bytes, place: int, code: int) -> int:
    """Write a code point in UTF-8; returns its length in bytes."""
    if code < 0x80:
        out_values[place] = code
        return 1
    if code < 0x800:
        out_values[place] = 0xC0 | code >> 6
        out_values[place + 1] = 0x80 | code & 0x3F
        return 2
    if code < 0x10000:
        out_values[place] = 0xE0 | code >> 12
        out_values[place + 1] = 0x80 | code >> 6 & 0x3F
        out_values[place + 2] = 0x80 | code & 0x3F
        return 3
    out_values[place] = 0xF0 | code >> 18
    out_values[place + 1] = 0x80 | code >> 12 & 0x3F
    out_values[place + 2] = 0x80 | code >> 6 & 0x3F
    out_values[place + 3] = 0x80 | code & 0x3F
    return 4
