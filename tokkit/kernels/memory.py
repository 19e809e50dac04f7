"""UTF-8, which was found valid before.

Memory: what the processor can do and Numba's arrays cannot say, such as eight bytes at a time.

A word is eight bytes of an array of bytes as an unsigned number, the first byte lowest (every
processor that Numba compiles for here is little-endian); it may begin at any byte. A load or
store beyond the array is the caller's fault, as ever.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from tokkit.kernels.jit import inline, splice, tuple_splice

Bytes = NDArray[np.uint8]

_BYTE = ir.IntType(8)
_WORD = ir.IntType(64)


def _intrinsic(function: Callable[..., Any]) -> Any:
    """Let Numba compile calls by ``function``, which gets their types and answers how."""
    return intrinsic(function)


@splice
def signed(number: Any) -> int:
    """A number as kernels count: of signed and unsigned ones together, Numba makes floats."""
    as_signed: int = np.int64(number)  # type: ignore[assignment]  # to a kernel they are the same
    return as_signed


def _address(builder: Any, context: Any, array_type: Any, array: Any, position: Any) -> Any:
    """Address of an element of a contiguous array, as that of a byte."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [position]), _BYTE.as_pointer())


@_intrinsic
def load_word(_: Any, values: Any, position: Any) -> Any:
    """``load_word(values, position)``: the word at ``values[position:position + 8]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments)
        return builder.load(builder.bitcast(address, _WORD.as_pointer()), align=1)

    return types.uint64(values, types.int64), generate


@_intrinsic
def store_word(_: Any, values: Any, position: Any, word: Any) -> Any:
    """``store_word(values, position, word)``: into ``values[position:position + 8]``."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments[:2])
        builder.store(arguments[2], builder.bitcast(address, _WORD.as_pointer()), align=1)
        return context.get_dummy_value()

    return types.void(values, types.int64, types.uint64), generate


@_intrinsic
def find_small_bytes(_: Any, values: Any, position: Any) -> Any:
    """``find_small_bytes(values, position)``: of 64 bytes, a bit for each that is below 33.

    The comparison of a vector, whose result is taken for a number; on x86 with AVX2 that is two
    comparisons and two ``vpmovmskb``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments)
        block = ir.VectorType(_BYTE, 64)
        loaded = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        small = builder.icmp_unsigned("<", loaded, ir.Constant(block, [33] * 64))
        return builder.bitcast(small, _WORD)

    return types.uint64(values, types.int64), generate


@_intrinsic
def find_either(_: Any, values: Any, position: Any, first: Any, second: Any) -> Any:
    """``find_either(values, position, first, second)``: of 64 values, a bit for each that is one.

    Both are taken modulo the size of the values. See ``find_small_bytes``.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments[:2])
        lane = context.get_data_type(values.dtype)
        block = ir.VectorType(lane, 64)
        loaded = builder.load(builder.bitcast(address, block.as_pointer()), align=1)
        equal = [
            builder.icmp_unsigned(
                "==", loaded, _repeat(builder, builder.trunc(wanted, lane), block)
            )
            for wanted in arguments[2:]
        ]
        return builder.bitcast(builder.or_(*equal), _WORD)

    return types.uint64(values, types.int64, types.int64, types.int64), generate


def _repeat(builder: Any, value: Any, block: Any) -> Any:
    """A vector that holds one value everywhere."""
    first = builder.insert_element(ir.Constant(block, ir.Undefined), value, ir.IntType(32)(0))
    lanes = ir.Constant(ir.VectorType(ir.IntType(32), block.count), [0] * block.count)
    return builder.shuffle_vector(first, first, lanes)


@_intrinsic
def prefetch(_: Any, values: Any, position: Any) -> Any:
    """``prefetch(values, position)``: begin to fetch the cache line of an element, to read it."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = _address(builder, context, signature.args[0], *arguments)
        kind = ir.IntType(32)
        function = builder.module.declare_intrinsic(
            "llvm.prefetch",
            [_BYTE.as_pointer()],
            ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), kind, kind, kind]),
        )
        builder.call(function, [address, kind(0), kind(3), kind(1)])
        return context.get_dummy_value()

    return types.void(values, types.int64), generate


@_intrinsic
def trailing_zeros(_: Any, word: Any) -> Any:
    """``trailing_zeros(word)``: how many of the lowest bits are zero, 64 where all are."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

    return types.int64(types.uint64), generate


@_intrinsic
def copy_values(
    _: Any, values: Any, start: Any, out_values: Any, out_start: Any, number: Any
) -> Any:
    """``copy_values(values, start, out_values, out_start, number)``: of arrays of one type.

    Three times as fast as to assign a slice to a slice, where slices have some hundred bytes.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = _address(builder, context, signature.args[0], *arguments[:2])
        target = _address(builder, context, signature.args[2], *arguments[2:4])
        size = context.get_abi_sizeof(context.get_data_type(values.dtype))
        cgutils.raw_memcpy(builder, target, source, arguments[4], size)
        return context.get_dummy_value()

    return types.void(values, types.int64, out_values, types.int64, types.int64), generate


@_intrinsic
def copy_from(_: Any, address: Any, out_values: Any, out_start: Any, number: Any) -> Any:
    """``copy_from(address, out_values, out_start, number)``: elements from an address.

    The address is an integer, of the first byte, which may be any; elements are as ``out_values``
    has them. So one kernel takes rows from any number of arrays that lie here and there.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        source = builder.inttoptr(arguments[0], _BYTE.as_pointer())
        target = _address(builder, context, signature.args[1], *arguments[1:3])
        size = context.get_abi_sizeof(context.get_data_type(out_values.dtype))
        cgutils.raw_memcpy(builder, target, source, arguments[3], size)
        return context.get_dummy_value()

    return types.void(types.int64, out_values, types.int64, types.int64), generate


@inline
def load_last_word(values: Bytes, position: int) -> np.uint64:
    """Like ``load_word``, where the array may end before eight bytes; zeros stand for the rest."""
    word = np.uint64(0)
    for index in range(min(values.size, position + 8) - 1, position - 1, -1):
        word = (word << np.uint64(8)) | np.uint64(values[index])
    return word


@inline
def find_last_small_bytes(values: Bytes, position: int) -> np.uint64:
    """Like ``find_small_bytes``, where the array may end before 64 bytes."""
    small = np.uint64(0)
    for index in range(position, min(values.size, position + 64)):
        small |= np.uint64(values[index] < 33) << np.uint64(index - position)
    return small


@inline
def find_last_either(
    values: NDArray[np.uint16] | NDArray[np.uint32], position: int, first: int, second: int
) -> np.uint64:
    """Like ``find_either``, where the array may end before 64 values."""
    found = np.uint64(0)
    for index in range(position, min(values.size, position + 64)):
        is_one = (values[index] == first) | (values[index] == second)
        found |= np.uint64(is_one) << np.uint64(index - position)
    return found


@tuple_splice
def decode_character(values: NDArray[np.uint8], position: int) -> tuple[int, int]:
    """The code point that begins at a byte, and how many bytes it has."""
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
