"""Numba's view of the arrays that kernels take: where they begin, and how large they are.

    int64, one dimension      address, size
    uint32, two dimensions    address, size, number of columns

Numba's own arrays are seven numbers or more, and every function that a kernel calls gets all of them,
which its compiler spends most of its time on: with byte-level BPE, 430 numbers for the tables in place
of 130. Nor do these count references. They have elements, ``size`` and ``len``; they cannot be made,
sliced or iterated over.

Indices count from the beginning, so -1 is out of bounds. Nothing checks that, unless the environment
says ``NUMBA_BOUNDSCHECK=1``.

Importing this module imports Numba.
"""

import operator
from typing import Any

from numba.core import cgutils, config
from numba.core import types as numba_types
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import lower_builtin, make_attribute_wrapper, models, register_model

types: Any = numba_types  # its annotations name few of its types
_DIMENSIONS = 2


class BareArray(types.Type):  # type: ignore[misc]  # Numba has no types
    """A contiguous array.

    Attributes:
        dtype: the type of its elements.
        ndim: 1 or 2.
    """

    def __init__(self, dtype: Any, ndim: int) -> None:
        self.dtype = dtype
        self.ndim = ndim
        super().__init__(f"BareArray({dtype}, {ndim})")


def to_bare(kind: Any) -> Any:
    """Return a type with bare arrays in place of Numba's, in tuples too."""
    if isinstance(kind, types.Array):
        return BareArray(kind.dtype, kind.ndim)
    if isinstance(kind, types.BaseTuple):
        parts = [to_bare(part) for part in kind]
        return types.BaseTuple.from_types(parts, getattr(kind, "instance_class", None))
    return kind


def find_data(context: Any, builder: Any, kind: BareArray, array: Any) -> Any:
    """Return a pointer to the first element."""
    return cgutils.create_struct_proxy(kind)(context, builder, value=array).data


def make_bytes(context: Any, builder: Any, address: Any, number: Any) -> Any:
    """Return an array of the bytes from an address on."""
    array = cgutils.create_struct_proxy(BareArray(types.uint8, 1))(context, builder)
    array.data = builder.inttoptr(address, cgutils.voidptr_t)
    array.size = number
    return array._getvalue()  # noqa: SLF001  Numba's way to make one


@register_model(BareArray)
class _Model(models.StructModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: BareArray) -> None:
        members = [
            ("data", types.CPointer(kind.dtype)),
            ("size", types.intp),
            ("columns", types.intp),
        ]
        super().__init__(manager, kind, members[: 1 + kind.ndim])


make_attribute_wrapper(BareArray, "size", "size")


@infer_global(len)
class _Length(AbstractTemplate):  # type: ignore[misc]
    def generic(self, arguments: Any, _named: Any) -> Any:
        (kind,) = arguments
        return signature(types.intp, kind) if isinstance(kind, BareArray) else None


@infer_global(operator.getitem)
class _GetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, arguments: Any, _named: Any) -> Any:
        kind, index = arguments
        if _is_index(kind, index):
            return signature(kind.dtype, kind, _widen(index))
        return None


@infer_global(operator.setitem)
class _SetItem(AbstractTemplate):  # type: ignore[misc]
    def generic(self, arguments: Any, _named: Any) -> Any:
        kind, index, value = arguments
        if _is_index(kind, index):
            return signature(types.none, kind, _widen(index), value)
        return None


def _is_index(kind: Any, index: Any) -> bool:
    if not isinstance(kind, BareArray):
        return False
    parts = [*index] if isinstance(index, types.BaseTuple) else [index]
    return len(parts) == kind.ndim and all(isinstance(part, types.Integer) for part in parts)


def _widen(index: Any) -> Any:
    """Return the type of an index with integers of 64 bits."""
    if isinstance(index, types.BaseTuple):
        return types.BaseTuple.from_types([_widen(part) for part in index])
    return types.intp if index.signed else types.uintp


@lower_builtin(len, BareArray)  # type: ignore[untyped-decorator]
def _lower_length(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
    return cgutils.create_struct_proxy(called.args[0])(context, builder, value=arguments[0]).size


@lower_builtin(operator.getitem, BareArray, types.Any)  # type: ignore[untyped-decorator]
def _lower_get(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
    kind, _ = called.args
    element = _find_element(context, builder, kind, *arguments)
    return context.unpack_value(builder, kind.dtype, element, align=1)


@lower_builtin(operator.setitem, BareArray, types.Any, types.Any)  # type: ignore[untyped-decorator]
def _lower_set(context: Any, builder: Any, called: Any, arguments: Any) -> Any:
    kind, _, value = called.args
    element = _find_element(context, builder, kind, *arguments[:2])
    converted = context.cast(builder, arguments[2], value, kind.dtype)
    context.pack_value(builder, kind.dtype, converted, element, align=1)
    return context.get_dummy_value()


def _find_element(context: Any, builder: Any, kind: BareArray, array: Any, index: Any) -> Any:
    """Return a pointer to an element."""
    parts = cgutils.create_struct_proxy(kind)(context, builder, value=array)
    if kind.ndim == _DIMENSIONS:
        row, column = cgutils.unpack_tuple(builder, index)
        index = builder.add(builder.mul(row, parts.columns), column)
    if config.BOUNDSCHECK:
        with builder.if_then(builder.icmp_unsigned(">=", index, parts.size), likely=False):
            context.call_conv.return_user_exc(builder, IndexError, (f"{kind}: out of bounds",))
    return builder.gep(parts.data, [index])
