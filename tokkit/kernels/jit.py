"""Decorators that compile kernels with Numba, once for each combination of argument types.

A kernel that was compiled before is loaded from disk without Numba, which takes 0.6 s to import and
to load its own cache; see ``tokkit.kernels.compiled``. Numba is imported where a kernel must be
compiled.

Kernels release the GIL, so threads can run next to them. They do not use ``parallel=True``: tokkit
runs work units in parallel instead.

Which decorator to use:

    kernel, tuple_kernel    called from Python; ``tuple_`` for those that take tuples of arrays
    inline, tuple_inline    called by kernels; LLVM decides whether to inline
    splice, tuple_splice    called by kernels; always inlined
    instruction             called by kernels; generates LLVM code

A ``tuple_splice`` function can take other compiled functions as arguments. Numba compiles it once
for each of them, so that a loop or a heap is written once and costs no call.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial, update_wrapper, wraps
from typing import Any, TypeVar, cast

from tokkit.kernels.compiled import (
    NUMBA_MEMORY,
    CompiledKernel,
    KernelFile,
    KernelHeader,
    find_folder,
    read_arguments,
)

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., object])

# A kernel that takes an array out of a tuple counts a reference to it with an atomic instruction:
# the encoding kernels ran at a third of their speed. This flag turns reference counts off. Without
# them no array can be made, and a slice is one. (Numba documents the flag under
# ``register_jitable``.)
_NO_REFERENCE_COUNTS = {"_nrt": False}
# What Numba would add for calls from Python, which go another way here.
_NO_WRAPPERS = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call."""
    return _wrap(function)


def tuple_kernel(function: Function) -> Function:
    """Compile a kernel that takes tuples of arrays; it can make neither slices nor arrays."""
    return _wrap(function, **_NO_REFERENCE_COUNTS)


def inline(function: Function) -> Function:
    """Compile a function that kernels call; LLVM inlines it where it pays."""
    return _wrap(function, inline="never")


def tuple_inline(function: Function) -> Function:
    """Compile like ``inline``, with the restrictions of ``tuple_kernel``."""
    return _wrap(function, inline="never", **_NO_REFERENCE_COUNTS)


def splice(function: Function) -> Function:
    """Compile a small function whose body replaces each call, before types are inferred.

    With ``inline`` LLVM inlines after it has vectorized loops, which is too late for a random draw
    in a loop: a block of Philox took 16 ns, and takes 3.2 ns this way (AVX2).
    """
    return _wrap(function, inline="always")


def tuple_splice(function: Function) -> Function:
    """Compile like ``tuple_inline``, and make LLVM inline every call.

    ``splice`` infers the types of a body again at every level of calls: the encoding kernels took
    9 and 13 s to compile instead of 6 and 8. Code that runs once per chunk of text became a
    twentieth faster by inlining.
    """
    return _wrap(function, forceinline=True, **_NO_REFERENCE_COUNTS)


def instruction(function: Callable[..., Any]) -> Any:
    """Make a function of kernels from one that generates its LLVM code.

    Args:
        function: called with the module ``numba.types`` and the types of the arguments; returns
            the signature, and the function that generates the code.
    """
    return _Instruction(function)


def _wrap(function: Function, **options: Any) -> Function:
    return cast("Function", _Kernel(function, options))


class NotCompiledError(Exception):
    """A kernel would have to be compiled."""


_refusals: list[None] = []


@contextmanager
def refuse_to_compile() -> Iterator[None]:
    """Let kernels that are not compiled yet raise ``NotCompiledError`` within the block."""
    _refusals.append(None)
    try:
        yield
    finally:
        _refusals.pop()


class _Kernel:
    """A function that is compiled for each combination of argument types, when it is called.

    What compiled kernels refer to it by, Numba looks up under the names that its own dispatchers
    have: ``_numba_type_``, ``targetoptions`` and ``py_func``.
    """

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        update_wrapper(self, function)
        self.py_func = function
        self._options = options
        self._compiled: dict[tuple[Any, ...], CompiledKernel] = {}

    def __call__(self, *arguments: Any) -> Any:
        types, values = read_arguments(arguments)
        compiled = self._compiled.get(types)
        if compiled is None:
            compiled = self._compiled[types] = self._load(types, arguments)
        return compiled(values)

    def _load(self, types: tuple[Any, ...], arguments: tuple[Any, ...]) -> CompiledKernel:
        """Load the kernel for these types, or compile and store it."""
        file = KernelFile.of_function(self.py_func, types)
        with file.locked_if_missing() as compiled:
            if compiled is not None:
                return compiled
            if _refusals:
                raise NotCompiledError
            header, code = self._compile(arguments)
            file.write(header, code)
            return CompiledKernel(header, code, types)

    def _compile(self, arguments: tuple[Any, ...]) -> tuple[KernelHeader, bytes]:
        """Compile the function for arguments of these types."""
        import numba
        from numba.core.compiler_lock import global_compiler_lock
        from numba.np.numpy_support import as_dtype

        _log_compilation()
        types = tuple(map(numba.typeof, arguments))
        with global_compiler_lock:
            with _no_machine_code():
                self._dispatcher.compile(types)
            result = self._dispatcher.overloads[types]
            library = result.library
            library._optimize_final_module()  # noqa: SLF001  Numba's way to compile does more
            code = library._codegen._tm.emit_object(library._final_module)  # noqa: SLF001
        returned = result.signature.return_type
        is_tuple = isinstance(returned, numba.types.BaseTuple)
        parts = returned.types if is_tuple else [] if returned == numba.types.none else [returned]
        header = KernelHeader(
            symbol=result.fndesc.llvm_func_name,
            returns="".join(as_dtype(part).char for part in parts),
            returns_tuple=is_tuple,
            numba_symbols=[
                function.name
                for function in library._final_module.functions  # noqa: SLF001  no other access
                if function.is_declaration and function.name.startswith(NUMBA_MEMORY)
            ],
        )
        return header, code

    @cached_property
    def _dispatcher(self) -> Any:
        import numba

        dispatcher = numba.njit(**self._options, **_NO_WRAPPERS)(self.py_func)
        dispatcher.get_call_template = partial(_find_call, dispatcher)
        return dispatcher

    @property
    def _numba_type_(self) -> Any:
        return self._dispatcher._numba_type_

    @property
    def targetoptions(self) -> dict[str, Any]:
        """The options that it is compiled with, as Numba has them."""
        options: dict[str, Any] = self._dispatcher.targetoptions
        return options


class _Instruction:
    """A function of kernels whose LLVM code is generated when a kernel is compiled."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    @cached_property
    def _numba_type_(self) -> Any:
        from numba import types
        from numba.core.registry import cpu_target
        from numba.extending import intrinsic

        @wraps(self._function)
        def generate(_context: Any, *arguments: Any) -> Any:
            return self._function(types, *arguments)

        made = intrinsic(generate)
        cpu_target.typing_context.refresh()
        return cpu_target.typing_context.resolve_value_type(made)


def _find_call(dispatcher: Any, arguments: Any, named: Any) -> Any:
    """Return what a kernel calls for arguments of these types; constants have the type of variables.

    Numba compiles a function again for each constant that a variable starts with: 18 of the 83
    functions of byte-level BPE.
    """
    from numba import types

    constants = types.IntegerLiteral, types.BooleanLiteral
    arguments = [types.unliteral(a) if isinstance(a, constants) else a for a in arguments]
    return type(dispatcher).get_call_template(dispatcher, arguments, named)


@contextmanager
def _no_machine_code() -> Iterator[None]:
    """Make Numba link functions without optimizing them, and without machine code.

    It would do both for each function that a kernel calls, and for all that these call, though the
    kernel inlines nearly all. The encoding kernels took 47 s to compile, and 31 s this way.
    """
    from unittest.mock import patch

    from numba import _dynfunc
    from numba.core.codegen import JITCodeLibrary
    from numba.core.cpu import CPUContext

    def finalize(library: Any) -> None:
        library._finalized = True  # noqa: SLF001

    def get_executable(_context: Any, library: Any, description: Any, environment: Any) -> Any:
        library.finalize()
        module, name = description.lookup_module(), description.qualname
        return _dynfunc.make_function(module, name, "", 0, environment, (library,))

    with (
        patch.object(JITCodeLibrary, "_optimize_final_module"),
        patch.object(JITCodeLibrary, "_finalize_final_module", finalize),
        patch.object(CPUContext, "get_executable", get_executable),
    ):
        yield


@cache
def _log_compilation() -> None:
    """Log once per process that kernels are being compiled, since it takes a while."""
    if (folder := find_folder()) is not None:
        log.info(
            "compiling kernels, once, which takes 10 to 30 seconds; storing them in %s", folder
        )
