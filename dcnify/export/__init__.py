"""Leave Python: a converted model as an ONNX file, an exported program, or a compiled package.

The package itself can be called: ``dcnify.export("out/", "model.onnx")``.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dcnify.export.spec import ExportSpec
from dcnify.lazy import load_on_use

if TYPE_CHECKING:
    from dcnify.export.call import export
    from dcnify.export.onnx.tensorrt import tensorrt_problems
    from dcnify.export.result import Comparison, Exported
    from dcnify.export.run import run

__all__ = [
    "Comparison",
    "ExportSpec",
    "Exported",
    "export",
    "run",
    "tensorrt_problems",
]

__getattr__ = load_on_use(__name__)


class _Callable(ModuleType):
    """A package that is a function too: `dcnify.export` is the name of both."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dcnify.export.call import export

        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
