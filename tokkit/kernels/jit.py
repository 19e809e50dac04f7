"""Decorators that compile kernels with Numba, once for each combination of argument types.

A kernel that was compiled before is loaded from disk without Numba, which takes 0.6 s to import and
to load its own cache; see ``tokkit.kernels.compiled``. Numba is imported where a kernel must be
compiled.

    kernel         called from Python: numbers, contiguous arrays, and tuples of these
    inline         called by kernels; LLVM decides whether to inline
    splice         called by kernels; always inlined
    instruction    called by kernels; generates LLVM code

Arrays are addresses and sizes inside a kernel; see ``tokkit.kernels.bare_arrays``. A kernel makes no
arrays: it is given the memory that it needs. It releases the GIL, so threads can run next to it. None
uses ``parallel=True``: tokkit runs work units in parallel instead.

A ``splice`` function can take other compiled functions as arguments. Numba compiles it once for each
of them, so that a loop or a heap is written once and costs no call.
"""

import gc
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, cached_property, partial, update_wrapper, wraps
from typing import Any, TypeVar, cast

import numpy as np

from tokkit.kernels.compiled import (
    CompiledKernel,
    KernelFile,
    KernelHeader,
    find_folder,
    read_arguments,
)

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., object])

# Numba gives neither memory to kernels nor what calls from Python need, which go another way here.
_OPTIONS = {"_nrt": False, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

# What Numba looks for in each function, and kernels do not have: closures, lists, parallel loops,
# expressions of whole arrays. To look took a tenth of the time.
_PASSES_LEFT_OUT = {
    "AnnotateTypes",
    "DumpParforDiagnostics",
    "FindLiterallyCalls",
    "InlineClosureLikes",
    "InlineInlinables",
    "InlineOverloads",
    "LiteralPropagationSubPipelinePass",
    "LiteralUnroll",
    "MakeFunctionToJitFunction",
    "NoPythonSupportedFeatureValidation",
    "NopythonRewrites",
    "RewriteDynamicRaises",
    "RewriteSemanticConstants",
    "WithLifting",
}


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call."""
    return _wrap(function)


def inline(function: Function) -> Function:
    """Compile a function that kernels call; LLVM inlines it where it pays."""
    return _wrap(function)


def splice(function: Function) -> Function:
    """Compile a function that kernels call, and make LLVM inline every call.

    It does so before it vectorizes loops, which matters for a random draw in a loop: a block of
    Philox took 16 ns, and takes 3.2 ns this way (AVX2). Code that runs once per chunk of text
    became a twentieth faster.
    """
    return _wrap(function, forceinline=True)


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
        names = function.__code__.co_varnames[: function.__code__.co_argcount]
        self._written = [place for place, name in enumerate(names) if name.startswith("out_")]

    def __call__(self, *arguments: Any) -> Any:
        for place in self._written:
            out = arguments[place]
            if isinstance(out, np.ndarray) and not out.flags.writeable:
                raise ValueError(f"{self.py_func.__name__} writes to an array that is read-only")
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

        from tokkit.kernels.bare_arrays import to_bare

        _log_compilation()
        _load_numba()
        start = time.perf_counter()
        types = tuple(to_bare(numba.typeof(argument)) for argument in arguments)
        with global_compiler_lock, _no_garbage_collection():
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
            seconds=round(time.perf_counter() - start, 3),
        )
        return header, code

    @cached_property
    def _dispatcher(self) -> Any:
        import numba

        options = {**_OPTIONS, **self._options, "pipeline_class": _short_pipeline()}
        dispatcher = numba.njit(**options)(self.py_func)
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


@cache
def _load_numba() -> None:
    """Load what Numba would load for the first kernel of a process."""
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()


@cache
def _short_pipeline() -> Any:
    """Return a compiler of Numba's without the passes that find nothing in kernels."""
    from numba.core.compiler import CompilerBase, DefaultPassBuilder

    class ShortPipeline(CompilerBase):  # type: ignore[misc]  # Numba has no types
        def define_pipelines(self) -> list[Any]:
            manager = DefaultPassBuilder.define_nopython_pipeline(self.state)
            manager.passes = [
                item for item in manager.passes if item[0].__name__ not in _PASSES_LEFT_OUT
            ]
            return [manager]

    return ShortPipeline


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep Python from looking for unreachable objects, which took a tenth of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


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
        log.info("compiling kernels, once, which takes 3 to 15 seconds; storing them in %s", folder)
