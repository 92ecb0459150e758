"""Which parameters of a model a stage trains."""

from collections.abc import Sequence

from torch import nn

from dcnify.errors import InputError
from dcnify.nn import DCNv4, Handover
from dcnify.recipe.selection.patterns import covers
from dcnify.words import did_you_mean

ALL, SWAPPED, NORMS, HEAD = "all", "@swapped", "@norms", "@head"


def trained_by(model: nn.Module, patterns: Sequence[str], swapped: Sequence[str]) -> list[str]:
    """Return the names of the parameters that the patterns cover, in the model's order.

    Old layers that are still handing over stay frozen, whatever a pattern covers.

    Args:
        model: the model to train.
        patterns: ``all``, ``@swapped``, ``@norms``, ``@head``, globs or ``re:`` on module or
            parameter paths.
        swapped: paths of the swapped layers.

    Raises:
        InputError: a pattern covers no parameter that can be trained.
    """
    # A tied parameter has several names, and a pattern may cover any of them.
    every = list(model.named_parameters(remove_duplicate=False))
    fading = _fading(model)
    every = [(name, one) for name, one in every if id(one) not in fading]
    names = [name for name, one in every if one.is_floating_point()]
    own = dict(every)
    chosen: set[int] = set()
    for pattern in patterns:
        found = _of_pattern(model, pattern, names, swapped)
        if not found:
            raise InputError(f"train: {pattern!r} covers no parameter{_nearest(pattern, names)}")
        chosen.update(id(own[name]) for name in found)
    return [name for name, one in model.named_parameters() if id(one) in chosen]


def _of_pattern(
    model: nn.Module, pattern: str, names: Sequence[str], swapped: Sequence[str]
) -> list[str]:
    if pattern == ALL:
        return list(names)
    if pattern == SWAPPED:
        return [name for name in names if name.startswith(tuple(f"{path}." for path in swapped))]
    if pattern == NORMS:
        norms = {
            path for path, one in model.named_modules() if "norm" in type(one).__name__.lower()
        }
        return [name for name in names if name.rpartition(".")[0] in norms]
    if pattern == HEAD:
        heads = tuple(f"{path}." for path in heads_of(model))
        return [name for name in names if name.startswith(heads)]
    return [name for name in names if any(covers(pattern, path) for path in _paths(name))]


def _fading(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that only old layers have, which hand over."""
    ids = set()
    for layer in model.modules():
        if isinstance(layer, Handover):
            stays = {id(parameter) for parameter in layer.new.parameters()}
            ids |= {id(parameter) for parameter in layer.old.parameters()} - stays
    return ids


def heads_of(model: nn.Module) -> tuple[str, ...]:
    """Return the paths of the classifier, as timm names it; none if the model names none."""
    config = getattr(model, "pretrained_cfg", None) or {}
    named = config.get("classifier")
    paths = (named,) if isinstance(named, str) else tuple(named or ())
    get = getattr(model, "get_classifier", None)
    if not paths and callable(get):
        head = get()
        paths = tuple(path for path, module in model.named_modules() if module is head)
    return tuple(path for path in paths if path)


def require_only(model: nn.Module, names: Sequence[str]) -> None:
    """Have the named parameters require gradients, and no others."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


def frozen_norms(model: nn.Module, every: bool = False) -> list[nn.Module]:
    """Return the batch norms whose statistics stay fixed: without trained parameters, or all."""
    norms = [one for one in model.modules() if hasattr(one, "running_mean")]
    return [one for one in norms if every or not any(p.requires_grad for p in one.parameters())]


def offset_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters that predict the offsets and weights of DCNv4 layers."""
    parts = ("offset_mask.", "offset_mask_dw.", "offset_mask_down.")
    layers = [path for path, one in model.named_modules() if isinstance(one, DCNv4)]
    starts = tuple(f"{path}.{part}" if path else part for path in layers for part in parts)
    return {name for name, _ in model.named_parameters() if name.startswith(starts)}


def _paths(name: str) -> list[str]:
    """``a.b.weight`` → ``a.b.weight``, ``a.b``, ``a``."""
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(len(parts), 0, -1)]


def _nearest(pattern: str, names: Sequence[str]) -> str:
    if pattern.startswith("@"):
        known = {SWAPPED: "no layer was swapped", HEAD: "the model names no classifier"}
        why = known.get(pattern)
        return f": {why}" if why else ""
    modules = dict.fromkeys(path for name in names for path in _paths(name))
    return did_you_mean(pattern, modules, cutoff=0.4)
