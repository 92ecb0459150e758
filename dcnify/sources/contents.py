"""Find the state dict in what a weight file holds, and what the file says about its model."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.sources.base import architecture_args
from dcnify.sources.compare import without_wrappers
from dcnify.sources.preprocessing import is_numbers

_PLAIN = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
)
_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# timm's training script: the name of its option, and of the argument of `timm.create_model`.
_OPTIONS = {
    "num_classes": "num_classes",
    "in_chans": "in_chans",
    "img_size": "img_size",
    "gp": "global_pool",
    "drop": "drop_rate",
    "drop_path": "drop_path_rate",
    "drop_block": "drop_block_rate",
    "bn_eps": "bn_eps",
    "bn_momentum": "bn_momentum",
}


@dataclass(frozen=True)
class Contents:
    """A state dict and what the file that held it says about the model."""

    tensors: dict[str, Tensor]
    arch: str | None = None
    """The timm name that the file gives, if any."""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model` that the file gives."""
    data: dict[str, Any] = field(default_factory=dict)
    """Preprocessing that the file gives: ``input_size``, ``mean``, ``std``."""
    notes: tuple[str, ...] = ()
    hint: str | None = None
    """``arch`` of a file without ``args``: a timm name, or only the name of a class."""


def contents_of(held: Any, what: str, *, use_ema: bool = False) -> Contents:
    """Find the state dict in ``held``, which `read_weights` returned.

    Args:
        held: a state dict, or a dict with one under a usual key, nested or not.
        what: the file, for messages.
        use_ema: take the averaged weights.

    Raises:
        InputError: there is no state dict, or no averaged one though ``use_ema`` asks for it.
    """
    if isinstance(held, nn.Module):
        raise InputError(f"{what} holds a whole module where a state dict was expected")
    if not isinstance(held, Mapping):
        raise InputError(f"{what} holds a {type(held).__name__}, not a state dict")
    notes = []
    averaged = [key for key in _EMA if isinstance(held.get(key), Mapping)]
    plain = [key for key in _PLAIN if isinstance(held.get(key), (Mapping, nn.Module))]
    key = None
    if use_ema:
        if not averaged:
            raise InputError(f"{what} holds no averaged (EMA) weights; leave out --use-ema")
        key = averaged[0]
        notes.append(f"took the averaged (EMA) weights {key!r}")
    elif plain:
        key = plain[0]
        if averaged:
            notes.append(f"took {key!r}; the file also holds averaged weights, see --use-ema")
    elif averaged and not _tensors(held):
        raise InputError(f"{what} holds only averaged (EMA) weights; take them with --use-ema")
    arch, args, data = _training(held)
    state = _descend(held if key is None else held[key])
    tensors = _tensors(state)
    if not tensors:
        keys = ", ".join(repr(name) for name in list(held)[:5]) or "nothing"
        raise InputError(f"{what} holds no state dict; at its top level it has {keys}")
    others = [name for name in state if name not in tensors and name != "_metadata"]
    if others:
        named = ", ".join(map(str, others[:2]))
        notes.append(f"left out {len(others)} entries that are no tensors ({named})")
    names = without_wrappers(tensors)
    if len(set(names.values())) != len(names):
        raise InputError(f"{what}: names collide once the 'module.' prefix is taken off")
    cleaned = {names[name]: tensor for name, tensor in tensors.items()}
    hint = held.get("arch") if isinstance(held.get("arch"), str) else None
    return Contents(cleaned, arch, args, data, tuple(notes), hint)


def _descend(state: Any) -> Mapping[str, Any]:
    for _ in range(3):
        if isinstance(state, nn.Module):
            return state.state_dict()
        inner = next((k for k in _PLAIN if isinstance(state.get(k), (Mapping, nn.Module))), None)
        if inner is None or _tensors(state):
            break
        state = state[inner]
    return state


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _training(held: Mapping[str, Any]) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """Read what timm's training script stored; without its ``args``, ``arch`` is a class name."""
    given = held.get("args")
    options = vars(given) if isinstance(given, argparse.Namespace) else given
    if not isinstance(options, Mapping) or not isinstance(options.get("model"), str):
        return None, {}, {}
    args = {name: options.get(option) for option, name in _OPTIONS.items()}
    args = {k: v for k, v in args.items() if v is not None and (v or not k.endswith("_rate"))}
    size = options.get("input_size")
    if is_numbers(size, int, 3):
        args.setdefault("in_chans", size[0])
        args.setdefault("img_size", list(size[1:]))
    extra = options.get("model_kwargs")
    args.update(extra if isinstance(extra, Mapping) else {})
    data = {k: options[k] for k in ("mean", "std") if is_numbers(options.get(k), (int, float))}
    image = args.get("img_size")
    if isinstance(image, int) or is_numbers(image, int, 2):
        data["img_size"] = image
    return options["model"], architecture_args(args), data
