"""Build a model around existing tensors, without initialising a weight."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.sources.construct import at_most, on_meta, with_buffers
from dcnify.sources.state_dict import Mismatch, Shapes, compare, of_version, shapes_of

Build = Callable[[], nn.Module]

_LARGEST_BUFFERS = 4 * 2**30


def mismatch_of(build: Build, shapes: Shapes, *, own_code: bool = False) -> Mismatch:
    """Compare ``shapes`` of a state dict with the model that ``build`` makes.

    ``own_code`` says that ``build`` runs the user's code, which may not work on the meta device.
    Raises `InputError` from ``build``, or for a model of far more parameters than ``shapes``.
    """
    return compare(shapes, shapes_of(skeleton(build, shapes, own_code=own_code)))


def skeleton(build: Build, shapes: Shapes, *, own_code: bool = False) -> nn.Module:
    """The model that ``build`` makes, on the meta device if it can be; see `mismatch_of`."""
    return _on_meta(build, shapes, own_code) or with_buffers(build, skip_init=False)


def materialise(
    build: Build,
    tensors: Mapping[str, Tensor],
    *,
    what: str,
    buffers: Mapping[str, Tensor] | None = None,
    own_code: bool = False,
) -> nn.Module:
    """Build a model; the tensors become its weights without a copy.

    The model is first built on the meta device and compared, so that sizes from a file allocate
    nothing before the tensors are known to fit. If the constructor computes buffers that are in no
    state dict, it runs once more for these, on the CPU.

    Args:
        build: makes the model; called up to three times.
        tensors: the state dict, strictly. A batch norm's counter may be missing.
        what: the file or folder, for messages.
        buffers: values for buffers that are in no state dict and differ from what is computed.
        own_code: ``build`` runs the user's code, which may not work on the meta device, and may
            read the weights it makes.
    """
    shapes = shapes_of(dict(tensors))
    model = _on_meta(build, shapes, own_code)
    if model is not None:
        _refuse_mismatch(shapes, model, what)
    if model is None or _unfilled(model, tensors):
        if model is not None:
            _refuse_large(model, tensors, what)
        model = with_buffers(build, skip_init=not own_code)
        if _unfilled(model, tensors) and not own_code:
            model = with_buffers(build, skip_init=False)
        _refuse_mismatch(shapes, model, what)
    _assign(model, tensors, what)
    for name, value in (buffers or {}).items():
        held = buffers_beside(model, name)
        if held is None:
            raise InputError(f"{what}: the model has no buffer {name!r}")
        held[name.rpartition(".")[2]] = value
    empty = sorted(_unfilled(model, ()))
    if empty:
        raise InputError(f"{what}: no value for {', '.join(empty[:3])}")
    return model


def buffers_beside(model: nn.Module, name: str) -> dict[str, Tensor | None] | None:
    """The registered buffers of the module that has the buffer ``name``; None if none has."""
    owner, _, leaf = name.rpartition(".")
    try:
        buffers = model.get_submodule(owner)._buffers
    except AttributeError:
        return None
    return buffers if leaf in buffers else None


def tied(model: nn.Module) -> list[list[str]]:
    """Groups of names in the model's state dict that are one and the same tensor object."""
    groups: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            groups.setdefault(id(tensor), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def tie(model: nn.Module, names: Iterable[str]) -> None:
    """Make all ``names`` of the model's state dict the tensor object of the first."""
    first: Any = None
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        slot = module._parameters if leaf in module._parameters else module._buffers
        first = slot[leaf] if first is None else first
        slot[leaf] = first


def _on_meta(build: Build, shapes: Shapes, own_code: bool) -> nn.Module | None:
    limit = 4 * len(shapes) + 1000
    try:
        return on_meta(build, at_most(limit))
    except OverflowError:
        raise InputError(f"the model has over {limit} parameters, its file {len(shapes)}") from None
    except Exception as error:
        if own_code and _because_of_meta(error):
            return None
        raise


def _because_of_meta(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return True
        error = error.__cause__
    return False


def _refuse_mismatch(shapes: Shapes, model: nn.Module, what: str) -> None:
    problem = compare(shapes, shapes_of(model))
    if problem:
        raise InputError(f"{what} does not fit its model: {problem}")


def _assign(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    groups = tied(model)
    wanted = model.state_dict()
    refuse_types(tensors, wanted, what)
    state = dict(tensors)
    for name, value in wanted.items():
        if isinstance(value, Tensor) and name not in state:  # num_batches_tracked; see `compare`
            state[name] = torch.zeros(value.shape, dtype=value.dtype)
    try:
        model.load_state_dict(of_version(state, model), strict=True, assign=True)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise InputError(f"{what} does not fit its model: {' '.join(lines[1:2])}") from None
    for names in groups:
        tie(model, names)


def refuse_types(tensors: Mapping[str, Tensor], wanted: Mapping[str, Any], what: str) -> None:
    """Raise `InputError` where a file has integers, booleans or complex numbers for float weights.

    They are codes of a quantised model, which mean nothing as numbers.
    """
    for name, value in tensors.items():
        place = wanted.get(name)
        if not isinstance(place, Tensor) or not place.is_floating_point():
            continue
        if not value.is_floating_point():
            kind = str(value.dtype).removeprefix("torch.")
            words = f"{what}: {name} holds {kind} where the model has float weights: if they are"
            raise InputError(f"{words} quantised, convert the float original")


def _unfilled(model: nn.Module, have: Iterable[str]) -> set[str]:
    """Names of tensors on the meta device that are not among the names ``have``."""
    names = set()
    for path, module in model.named_modules(remove_duplicate=False):
        own = {**module._parameters, **module._buffers, **vars(module)}
        for leaf, value in own.items():
            if isinstance(value, Tensor) and value.is_meta:
                names.add(f"{path}.{leaf}" if path else leaf)
    return names - set(have)


def _refuse_large(model: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    known = set(tensors)
    total = sum(
        value.nelement() * value.element_size()
        for name, value in model.named_buffers()
        if name not in known
    )
    if total > _LARGEST_BUFFERS:
        raise InputError(f"{what}: the model's buffers would take {total / 2**30:.0f} GiB")
