"""Find the state dict in what a weight file holds, and what the file says about its model."""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.sources.base import architecture_args
from dcnify.sources.preprocessing import is_numbers
from dcnify.sources.quantised import refuse_quantised

_WRAPPERS = ("module.", "_orig_mod.")
_PLAIN = (
    *("state_dict", "model_state_dict", "model", "module"),
    *("net", "network", "weights", "params"),
)
_EMA = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
# timm's training script: the name of its option, and of the argument of `timm.create_model`.
_OPTIONS = {
    **{name: name for name in ("num_classes", "in_chans", "img_size", "bn_eps", "bn_momentum")},
    "gp": "global_pool",
    "drop": "drop_rate",
    "drop_path": "drop_path_rate",
    "drop_block": "drop_block_rate",
}


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and what the file that held it says about the model."""

    tensors: dict[str, Tensor]
    arch: str | None = None
    """The timm name that the file gives, if any."""
    args: dict[str, Any] = field(default_factory=dict)
    """Arguments of `timm.create_model` that the file gives."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    """What the file says of ``input_size``, ``img_size``, ``mean``, ``std``, ``interpolation``."""
    notes: tuple[str, ...] = ()
    arch_hint: str | None = None
    """``arch`` of a file without ``args``: a timm name, or only the name of a class."""


def checkpoint_of(held: Any, what: str, *, use_ema: bool = False) -> Checkpoint:
    """Find the state dict in ``held``, which `read_weights` returned: one, or under a usual key.

    ``use_ema`` takes the averaged weights; ``what`` names the file in messages.
    """
    if isinstance(held, nn.Module):
        raise InputError(f"{what} holds a whole module where a state dict was expected")
    if not isinstance(held, Mapping):
        raise InputError(f"{what} holds an object of type {type(held).__name__}, not a state dict")
    key, notes = _choose(held, what, use_ema)
    state = _descend(held if key is None else held[key])
    tensors = _tensors_in(state)
    if not tensors:
        keys = ", ".join(repr(name) for name in list(held)[:5]) or "nothing"
        raise InputError(f"{what} holds no state dict; at its top level it has {keys}")
    refuse_quantised(state, what)
    _refuse_odd(tensors, what)
    others = [str(name) for name in state if name not in tensors and name != "_metadata"]
    if others:
        notes.append(
            f"left out {len(others)} entries that are not tensors ({', '.join(others[:2])})"
        )
    names = _without_wrappers(tensors)
    if len(set(names.values())) != len(names):
        raise InputError(f"{what}: names collide once the 'module.' prefix is taken off")
    cleaned = {names[name]: tensor for name, tensor in tensors.items()}
    hint = held.get("arch") if isinstance(held.get("arch"), str) else None
    return Checkpoint(cleaned, *_training_options(held), tuple(notes), hint)


def _choose(held: Mapping[str, Any], what: str, use_ema: bool) -> tuple[str | None, list[str]]:
    """The key of the state dict, None if ``held`` is one itself; and notes."""
    averaged = [key for key in _EMA if isinstance(held.get(key), Mapping)]
    plain = [key for key in _PLAIN if isinstance(held.get(key), Mapping | nn.Module)]
    if use_ema and not averaged:
        raise InputError(f"{what} holds no averaged (EMA) weights; leave out --use-ema")
    if use_ema:
        return averaged[0], [f"took the averaged (EMA) weights {averaged[0]!r}"]
    if plain:
        beside = f"took {plain[0]!r}; the file also holds averaged weights, see --use-ema"
        return plain[0], [beside] if averaged else []
    if averaged and not _tensors_in(held):
        raise InputError(f"{what} holds only averaged (EMA) weights; take them with --use-ema")
    return None, []


def _descend(state: Any) -> Mapping[str, Any]:
    for _ in range(3):
        if isinstance(state, nn.Module):
            return state.state_dict()
        inner = next((k for k in _PLAIN if isinstance(state.get(k), Mapping | nn.Module)), None)
        if inner is None or _tensors_in(state):
            break
        state = state[inner]
    return state


def _tensors_in(state: Mapping[str, Any]) -> dict[str, Tensor]:
    return {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}


def _refuse_odd(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `InputError` for a tensor that is not dense, with values of its own."""
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            raise InputError(f"{what}: {name} is quantised; convert the float original")
        if tensor.layout != torch.strided:
            raise InputError(f"{what}: {name} is sparse; save it dense (Tensor.to_dense)")
        if tensor.is_meta:
            raise InputError(f"{what}: {name} has no values: it was saved from the meta device")


def _without_wrappers(names: Iterable[str]) -> dict[str, str]:
    """Map each name to itself without what DDP and torch.compile put before or inside it."""
    cleaned = {}
    for name in names:
        short = name
        while short.startswith(_WRAPPERS):
            short = short.removeprefix("module.").removeprefix("_orig_mod.")
        cleaned[name] = short.replace("._orig_mod.", ".")
    return cleaned


def _training_options(
    held: Mapping[str, Any],
) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
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
    recorded = {k: options[k] for k in ("mean", "std") if is_numbers(options.get(k), (int, float))}
    if options.get("interpolation"):
        recorded["interpolation"] = options["interpolation"]
    image = args.get("img_size")
    if isinstance(image, int) or is_numbers(image, int, 2):
        recorded["img_size"] = image
    return options["model"], architecture_args(args), recorded
