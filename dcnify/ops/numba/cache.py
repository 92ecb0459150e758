"""Compilation of the CPU kernels, and the folder that keeps compiled kernels between processes.

Numba's own ``cache=True`` watches the file of the compiled function, not the files of what it
calls, raises where no folder can be written, and raises again if the disk is full later on.
"""

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache

_COMPILED = ("cache", "vectors", "points", "forward", "backward")
_SOURCES = hashlib.sha256(
    b"".join(Path(__file__).with_name(f"{name}.py").read_bytes() for name in _COMPILED)
).hexdigest()

# Zero divisors give infinities, and the global interpreter lock is released while a kernel runs.
exact = njit(nogil=True, error_model="numpy", fastmath=False)
"""Compile a function, called by kernels, that rounds after every operation."""
fused = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""Compile a function, called by kernels, that may fuse and reorder sums, yet keeps NaN and inf."""


class _Files(CompileResultCacheImpl):
    """Files named after these sources: those of other sources may not even unpickle."""

    @property
    def filename_base(self) -> str:
        return f"{super().filename_base}-{_SOURCES[:12]}"


class _Cache(FunctionCache):
    _impl_class = _Files

    def load_overload(self, sig, target_context):
        try:
            return super().load_overload(sig, target_context)
        except OSError:
            return None
        except Exception:  # the index is damaged
            with suppress(OSError):
                self.flush()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except OSError:
            self.disable()


def kernel(function: Callable) -> Callable:
    """Compile a kernel on its first call, or read it from disk if that was done before."""
    dispatcher = fused(function)
    with suppress(RuntimeError, OSError):  # nowhere to write
        dispatcher._cache = _Cache(function)
    return dispatcher
