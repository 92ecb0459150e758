"""`ExportSpec`: where a model is exported to and in which form, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dcnify.errors import InputError
from dcnify.files import check_file
from dcnify.spec import Spec, option
from dcnify.words import did_you_mean

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "aoti": ".pt2"}
"""Formats, with the ending of their files."""
LOWEST_OPSET = {"deform_conv": 19, "grid_sample": 18}
"""Forms of the operator in ONNX, with the lowest version of ONNX's operators that each needs.

GridSample came with 16; PyTorch writes no models below 18.
"""
HIGHEST_OPSET = 24
AXES = ("batch", "height", "width")
DTYPES = {"fp32": "float32", "fp16": "float16", "float32": "float32", "float16": "float16"}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_MAX_ERROR = {"float64": 1e-9, "float32": 1e-4, "float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class ExportSpec(Spec):
    """An output file and its form; `dcnify.export.run` takes one."""

    output: Path = option(
        help="File to write: model.onnx, or model.pt2 for PyTorch.",
        flags=("--output", "-o"),
        metavar="FILE",
    )
    format: str | None = option(
        None,
        help="onnx, pt2 (an exported program) or aoti (a program compiled ahead of time for this "
        "kind of machine). By default what the file's ending says.",
        metavar="FORMAT",
    )
    opset: int | None = option(
        None,
        help="ONNX: version of its operators. By default the lowest that the form allows: 19, or "
        "18 for grid_sample.",
        metavar="N",
    )
    form: str = option(
        "deform_conv",
        help="ONNX: what the new layers become, deform_conv or grid_sample.",
        metavar="FORM",
    )
    dynamic: tuple[str, ...] = option(
        (),
        help="Axes of the image that may have any size: batch,height,width, or some of them. "
        "None by default.",
        metavar="AXES",
    )
    dtype: str | None = option(
        None, help="fp32 or fp16. By default that of the weights.", metavar="DTYPE"
    )
    fold_static: bool = option(
        False,
        help="Write layers whose points do not depend on the image as the plain depthwise "
        "convolutions that they are.",
    )
    max_error: float | None = option(
        None,
        help="Largest relative error of the exported model's output; above it nothing is "
        "written, and the exit code is 3. Default: 1e-4, and 2e-2 for fp16.",
        metavar="NUMBER",
    )

    @property
    def kind(self) -> str:
        """The format, from the option or from the file's ending."""
        by_ending = {".onnx": "onnx", ".pt2": "pt2"}
        return self.format or by_ending.get(Path(self.output).suffix, "")

    @property
    def version(self) -> int:
        """The version of ONNX's operators."""
        return self.opset or LOWEST_OPSET[self.form]

    @property
    def axes(self) -> tuple[str, ...]:
        """The dynamic axes, in order."""
        asked = [one.strip() for text in self.dynamic for one in text.split(",") if one.strip()]
        for one in asked:
            if one not in AXES:
                otherwise = f"; the axes are {', '.join(AXES)}"
                near = did_you_mean(one, AXES, otherwise=otherwise)
                raise InputError(f"--dynamic: unknown axis {one!r}{near}")
        return tuple(axis for axis in AXES if axis in asked)

    @property
    def float_type(self) -> str | None:
        """The dtype as PyTorch names it; None for that of the weights."""
        return None if self.dtype is None else DTYPES[self.dtype]

    def limit(self, dtype: str) -> float:
        """The largest relative error that a model in ``dtype`` may have."""
        return self.max_error if self.max_error is not None else _MAX_ERROR[dtype]

    def check(self, overwrite: bool = False) -> None:
        """Refuse a request that cannot work, before torch is imported.

        Raises:
            InputError: an option is unknown or does not apply, the output cannot be written, or a
                package is missing.
        """
        output = Path(self.output)
        if self.kind not in FORMATS:
            if self.format is None:
                raise InputError(f"{output}: name a file ending in .onnx or .pt2, or give --format")
            near = did_you_mean(self.format, FORMATS, otherwise=f"; there is {_listed(FORMATS)}")
            raise InputError(f"--format: unknown format {self.format!r}{near}")
        ending = FORMATS[self.kind]
        if output.suffix != ending:
            raise InputError(f"{output}: a file of --format {self.kind} ends in {ending}")
        if self.form not in LOWEST_OPSET:
            near = did_you_mean(self.form, LOWEST_OPSET, otherwise=_listed(LOWEST_OPSET))
            raise InputError(f"--form: unknown form {self.form!r}{near}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise InputError(f"--dtype: unknown dtype {self.dtype!r}; there is fp32 and fp16")
        if self.max_error is not None and not (
            math.isfinite(self.max_error) and self.max_error > 0
        ):
            raise InputError(f"--max-error is a number above 0, not {self.max_error:g}")
        assert self.axes is not None  # unknown ones are refused
        if self.kind == "onnx":
            self._check_onnx()
        elif self.opset is not None or self.form != "deform_conv":
            given = "--opset" if self.opset is not None else "--form"
            raise InputError(f"{given} is for ONNX, not for --format {self.kind}")
        check_file(output, overwrite)

    def _check_onnx(self) -> None:
        lowest = LOWEST_OPSET[self.form]
        if not lowest <= self.version <= HIGHEST_OPSET:
            reason = f"--opset {self.version}: --form {self.form} needs {lowest} to {HIGHEST_OPSET}"
            other = LOWEST_OPSET["grid_sample"]
            if other <= self.version < lowest:
                reason += f"; --form grid_sample needs {other}"
            raise InputError(reason)
        missing = [name for name in _PACKAGES if find_spec(name) is None]
        if missing:
            raise InputError(
                f"ONNX export needs {', '.join(missing)}: pip install 'dcnify[export]'"
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
