"""PyTorch's own formats: an exported program, and a package that was compiled ahead of time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_unflatten

from dcnify.errors import DcnifyError
from dcnify.export.program import Program, outputs_of, quiet
from dcnify.words import first_line

METADATA = "dcnify.json"
"""The entry of a ``.pt2`` file that says what it was made from."""


def write_program(program: Program, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an exported program, which ``torch.export.load`` reads after ``import dcnify``."""
    with quiet():
        torch.export.save(program.exported, path, extra_files={METADATA: json.dumps(metadata)})


def write_compiled(program: Program, path: Path) -> None:
    """Compile a program for this kind of machine, and write it.

    ``torch._inductor.aoti_load_package`` reads it after ``import dcnify``.

    Raises:
        DcnifyError: there is no C++ compiler, or it fails.
    """
    try:
        with quiet():
            torch._inductor.aoti_compile_and_package(program.exported, package_path=str(path))
    except Exception as error:  # of a compiler
        raise DcnifyError(f"it cannot be compiled ahead of time: {first_line(error)}") from error


def load(path: Path, kind: str, program: Program) -> Callable[..., Sequence[Tensor]]:
    """Load what was written, as a function of the inputs in order."""
    if kind == "aoti":
        model: Any = torch._inductor.aoti_load_package(str(path))
    else:
        model = torch.export.load(path).module()
    spec = program.exported.call_spec.in_spec
    assert spec is not None

    def run(*tensors: Tensor) -> Sequence[Tensor]:
        args, kwargs = tree_unflatten(_leaves(program, tensors), spec)
        with torch.no_grad():
            return outputs_of(model(*args, **kwargs))

    return run


def _leaves(program: Program, tensors: Sequence[Tensor]) -> list[Any]:
    """The arguments as ``torch.export`` flattened them: constants stand where they stood."""
    given = iter(tensors)
    held = program.leaves()
    return [next(given) if isinstance(one, Tensor) else one for one in held]
