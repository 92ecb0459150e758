"""A model as an exported program, perhaps for images of any size: the start of every format."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import (
    keystr,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

from dcnify.errors import DcnifyError, InputError
from dcnify.graph.calls import output_tensor, tensors_in
from dcnify.graph.capture import other_part, twin_of
from dcnify.graph.example import Example
from dcnify.graph.given_model import why_not_captured
from dcnify.words import first_line

AXES_OF_IMAGE = {"batch": 0, "height": 2, "width": 3}
"""Axes of an image (B, C, H, W) that may have any size."""
_SPECIALISED = re.compile(r"size\(\)\[(\d)\] as dynamic but your code specialized")


@dataclass(frozen=True)
class Program:
    """An exported program, and how it is called."""

    exported: torch.export.ExportedProgram
    example: Example
    dynamic: tuple[str, ...]
    main: int | None
    """Which of the outputs, in order, is the one that outputs are compared by; None if that is
    several."""

    def leaves(self) -> list[Any]:
        """The arguments of the call, tensors and others, in the order of the program's."""
        return _leaves(self.exported, self.example)


def export_program(model: nn.Module, example: Example, dynamic: Sequence[str] = ()) -> Program:
    """Export ``model`` in evaluation mode, called as ``example``; it is left as it was.

    Args:
        model: on the CPU.
        example: with two images at least where the batch is dynamic.
        dynamic: axes of the image that may have any size: ``batch``, ``height``, ``width``.

    Raises:
        InputError: the model cannot be exported, or takes one size alone.
    """
    model = twin_of(model)
    model.eval()
    called = example.called(model)
    with torch.no_grad(), _in_words(model, example):
        output = called(*example.args, **example.kwargs)
    try:
        main = _main_output(output)
    except DcnifyError as error:
        way_out = other_part(model, example)
        raise InputError(f"the model cannot be exported: {first_line(error)}{way_out}") from None
    if not _is_plain(output):
        called.register_forward_hook(lambda _module, _args, given: tuple(tensors_in(given)))
    shapes = _dynamic_shapes(called, example, dynamic)
    with torch.no_grad(), quiet(), _in_words(model, example, dynamic):
        program = torch.export.export(
            called, example.args, dict(example.kwargs), dynamic_shapes=shapes, strict=False
        )
    return Program(program, example, tuple(dynamic), main)


def inputs_of(program: Program, example: Example) -> list[Tensor]:
    """The tensors of a call, in the order in which the exported model takes them."""
    return [one for one in _leaves(program.exported, example) if isinstance(one, Tensor)]


def _leaves(exported: torch.export.ExportedProgram, example: Example) -> list[Any]:
    spec = exported.call_spec.in_spec
    assert spec is not None
    names = spec.children()[1].context  # keywords in the order of the model's signature
    return tree_leaves((example.args, {name: example.kwargs[name] for name in names or ()}))


def input_names(program: Program) -> list[str]:
    """The names of those tensors in the program."""
    signature = program.exported.graph_signature
    by_name = {node.name: node for node in program.exported.graph.nodes}
    return [
        name
        for name in signature.user_inputs
        if isinstance(name, str) and isinstance(by_name[name].meta.get("val"), Tensor)
    ]


def outputs_of(output: Any) -> list[Tensor]:
    """The tensors of a model's output, in the order of the exported one's."""
    if _is_plain(output):
        return [one for one in tree_leaves(output) if isinstance(one, Tensor)]
    return list(tensors_in(output))


def output_names(program: Program) -> list[str]:
    """Names for the tensors that the program returns: by key or field where they have any."""
    spec = program.exported.call_spec.out_spec
    given = program.exported.graph_signature.user_outputs
    assert spec is not None
    paths = [path for path, _ in tree_flatten_with_path(tree_unflatten(given, spec))[0]]
    names = ["_".join(re.findall(r"\w+", keystr(path))) for path in paths]  # "['maps'][0]"
    return [
        name if name[:1].isalpha() else f"output_{name}".rstrip("_")
        for name, output in zip(names, given, strict=True)
        if isinstance(output, str)
    ]


def output_shapes(program: Program) -> dict[str, tuple[int | str, ...]]:
    """The shapes of the program's outputs by name; a size that depends on the input as a text."""
    by_name = {node.name: node for node in program.exported.graph.nodes}
    given = program.exported.graph_signature.user_outputs
    values = [by_name[name].meta["val"] for name in given if isinstance(name, str)]
    named = {str(size): axis for axis, size in dynamic_sizes(program).items()}
    return {
        name: tuple(n if isinstance(n, int) else in_names(str(n), named) for n in value.shape)
        for name, value in zip(output_names(program), values, strict=True)
    }


def dynamic_sizes(program: Program) -> dict[str, Any]:
    """The sizes of the image's dynamic axes, as symbols of the program."""
    by_name = {node.name: node for node in program.exported.graph.nodes}
    tensors = inputs_of(program, program.example)
    position = next(i for i, one in enumerate(tensors) if one is program.example.images)
    image = by_name[input_names(program)[position]].meta["val"]
    return {axis: image.shape[AXES_OF_IMAGE[axis]] for axis in program.dynamic}


def smallest_sizes(program: Program) -> dict[str, int]:
    """The smallest sizes that the program takes, by axis, where that is more than two."""
    ranges = program.exported.range_constraints
    sizes = {axis: ranges.get(size.node.expr) for axis, size in dynamic_sizes(program).items()}
    return {axis: int(one.lower) for axis, one in sizes.items() if one and one.lower > 2}


def in_names(size: str, named: Mapping[str, str]) -> str:
    """A size in terms of axes: ``s53//32`` as ``height//32``."""
    return re.sub(r"[A-Za-z_]\w*", lambda found: named.get(found[0], found[0]), size)


def with_batch(example: Example, count: int) -> Example:
    """The same call with ``count`` images; those that are there are repeated."""
    images = example.images
    return example.with_image(images[torch.arange(count, device=images.device) % len(images)])


def cast(twin: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a twin (see `twin_of`) tensors of its own on the CPU and in ``dtype``, where needed."""
    made: dict[int, Tensor] = {}
    for module in twin.modules():
        tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        for held in tensors:
            for name, one in held.items():
                wanted = dtype if one is not None and one.is_floating_point() else None
                if one is None or (one.device.type == "cpu" and wanted in (None, one.dtype)):
                    continue
                if id(one) not in made:
                    new = one.detach().to("cpu", wanted)
                    is_parameter = isinstance(one, nn.Parameter)
                    made[id(one)] = nn.Parameter(new, requires_grad=False) if is_parameter else new
                held[name] = made[id(one)]
    return twin


@contextmanager
def quiet() -> Iterator[None]:
    """Keep to ourselves what exporting prints: an error says it in one line."""
    logged = logging.root.manager.disable
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            logging.disable(logging.ERROR)
            yield
    finally:
        logging.disable(logged)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _dynamic_shapes(called: nn.Module, example: Example, dynamic: Sequence[str]) -> Any:
    """What `torch.export` takes: by argument, which of its axes may have any size."""
    if not dynamic:
        return None
    any_size, images, batch = torch.export.Dim.DYNAMIC, example.images, len(example.images)

    def axes_of(value: Any) -> Any:
        if value is images:
            return {AXES_OF_IMAGE[axis]: any_size for axis in dynamic}
        if not isinstance(value, Tensor):
            return None
        axis = example.batch_axis
        follows = "batch" in dynamic and value.dim() > axis and value.shape[axis] == batch
        return {axis: any_size} if follows else {}

    args, kwargs = tree_map(axes_of, (example.args, dict(example.kwargs)))
    return dict(inspect.signature(called.forward).bind(*args, **kwargs).arguments)


@contextmanager
def _in_words(model: nn.Module, example: Example, dynamic: Sequence[str] = ()) -> Iterator[None]:
    try:
        yield
    except DcnifyError:
        raise
    except Exception as error:  # whatever a model may raise
        fixed = {int(axis) for axis in _SPECIALISED.findall(str(error))}
        names = [axis for axis in dynamic if AXES_OF_IMAGE[axis] in fixed]
        if names:
            rows, columns = example.shape[2:]
            rest = [axis for axis in dynamic if axis not in names]
            way_out = f"--dynamic {','.join(rest)}" if rest else "leave out --dynamic"
            raise InputError(
                f"--dynamic: the model's {' and '.join(names)} cannot change: it was built for "
                f"{rows}x{columns}; {way_out}"
            ) from error
        raise InputError(
            f"the model cannot be exported with a {example.describe()} input: "
            f"{why_not_captured(error)}{other_part(model, example)}"
        ) from error


def _is_plain(output: Any) -> bool:
    """Whether it is made of tensors and what `torch.export` knows how to take apart."""
    return all(one is None or isinstance(one, Tensor) for one in tree_leaves(output))


def _main_output(output: Any) -> int | None:
    tensors, main = outputs_of(output), output_tensor(output)
    return next((index for index, one in enumerate(tensors) if one is main), None)
