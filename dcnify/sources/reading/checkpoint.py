"""Find the tensors in what a weight file holds, and what the file says about its model."""

import argparse
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from dcnify.errors import InputError
from dcnify.sources.base import architecture_args
from dcnify.sources.preprocessing import is_numbers
from dcnify.sources.reading.quantised import refuse_quantised
from dcnify.words import did_you_mean

_INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
_WRAPPERS = ("module.", *_INSIDE)
_OF_TRAINING = re.compile(r"(?i)optim|sched|scaler|rng")
_DEEPEST, _LISTED = 6, 6
_MOST_TENSORS = 20_000
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


def checkpoint_of(
    held: Any,
    what: str,
    *,
    use_ema: bool = False,
    key: str | None = None,
    ignore: Sequence[str] = (),
) -> Checkpoint:
    """Find the tensors in ``held``, which `read_weights` returned: a state dict, or several.

    One under a usual key is taken. Otherwise those that lie deeper stay apart by their keys, as
    prefixes of the names: ``{"teacher": {"norm.weight": ...}}`` gives ``teacher.norm.weight``.

    Args:
        held: what the file holds.
        what: names the file in messages.
        use_ema: take the averaged weights.
        key: take what lies under this key, or prefix of names.
        ignore: patterns of names to leave out.

    Raises:
        InputError: there are no tensors, or none under ``key``, or quantised ones.
    """
    if isinstance(held, nn.Module):
        raise InputError(f"{what} holds a whole module where a state dict was expected")
    if not isinstance(held, Mapping):
        raise InputError(f"{what} holds an object of type {type(held).__name__}, not a state dict")
    _refuse_shard(held, what)
    notes: list[str] = []
    if key is not None:
        tensors = _under(key, held, what)
        notes.append(f"took what lies under {key!r}")
    else:
        chosen, notes = _choose(held, what, use_ema)
        state = _mapping(held if chosen is None else held[chosen])
        tensors = _flat(_descend(state))
    if not any(isinstance(value, Tensor) for value in tensors.values()):
        keys = ", ".join(repr(name) for name in list(held)[:5]) or "nothing"
        raise InputError(f"{what} holds no state dict; at its top level it has {keys}")
    if len(tensors) > _MOST_TENSORS:
        raise InputError(f"{what} holds {len(tensors):,} tensors, more than any model has")
    tensors = _without_ignored(tensors, ignore, what, notes)
    refuse_quantised(tensors, what)
    others = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
    if others:
        shown = ", ".join(others[:2])
        notes.append(f"left out what is not a tensor: {shown}{', ...' if len(others) > 2 else ''}")
    kept = {name: value for name, value in tensors.items() if isinstance(value, Tensor)}
    hint = held.get("arch") if isinstance(held.get("arch"), str) else None
    return Checkpoint(kept, *_training_options(held), tuple(notes), hint)


def _refuse_shard(held: Mapping[Any, Any], what: str) -> None:
    """Raise `InputError` for a shard of DeepSpeed; whole weights in its file are taken."""
    inner = held.get("module")
    empty = isinstance(inner, Mapping) and any(
        isinstance(value, Tensor) and not value.numel() for value in inner.values()
    )
    if {"ds_version", "ds_config"} & held.keys() and (empty or inner is None):
        raise InputError(
            f"{what} is a shard of DeepSpeed ZeRO: merge them with 'python zero_to_fp32.py . out', "
            "the script beside them"
        )


def refuse_odd(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise `InputError` for a tensor that is not dense, with values of its own."""
    for name, tensor in tensors.items():
        if tensor.is_quantized:
            raise InputError(f"{what}: {name} is quantised; convert the float original")
        if tensor.layout != torch.strided:
            raise InputError(f"{what}: {name} is sparse; save it dense (Tensor.to_dense)")
        if tensor.is_meta:
            raise InputError(f"{what}: {name} has no values: it was saved from the meta device")


def _choose(held: Mapping[str, Any], what: str, use_ema: bool) -> tuple[str | None, list[str]]:
    """The key of the state dict, None if ``held`` is one itself or has it elsewhere; and notes."""
    averaged = [key for key in _EMA if _holds_tensors(held.get(key))]
    plain = [key for key in _PLAIN if _holds_tensors(held.get(key))]
    if use_ema and not averaged:
        raise InputError(f"{what} holds no averaged (EMA) weights; leave out --use-ema")
    if use_ema:
        return averaged[0], [f"took the averaged (EMA) weights {averaged[0]!r}"]
    if plain:
        beside = f"took {plain[0]!r}; the file also holds averaged weights, see --use-ema"
        return plain[0], [beside] if averaged else []
    if averaged and not any(_holds_tensors(v) for k, v in held.items() if k not in averaged):
        raise InputError(f"{what} holds only averaged (EMA) weights; take them with --use-ema")
    return None, []


def _descend(state: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Follow usual keys further in, as in ``{"model": {"state_dict": ...}}``."""
    for _ in range(_DEEPEST):
        inner = next((key for key in _PLAIN if _holds_tensors(state.get(key))), None)
        if inner is None or any(isinstance(value, Tensor) for value in state.values()):
            break
        state = _mapping(state[inner])
    return state


def _under(key: str, held: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """The entries whose names start with ``key``, without it; in the usual place, then anywhere."""
    chosen, _ = _choose(held, what, False)
    usual = _flat(_descend(_mapping(held[chosen]))) if chosen else {}
    everything = _flat(held)
    for names in (usual, everything):
        found = {k.removeprefix(f"{key}."): v for k, v in names.items() if k.startswith(f"{key}.")}
        if any(isinstance(value, Tensor) for value in found.values()):
            return found
    near = Counter(
        part
        for name, value in {**everything, **usual}.items()
        if isinstance(value, Tensor)
        for part in (name.partition(".")[0], name.rpartition(".")[0])
    )
    keys = list(dict(near.most_common(_LISTED)))
    hint = did_you_mean(key, list(near), otherwise=f"; it has {', '.join(keys) or 'none'}")
    raise InputError(f"{what} holds no state dict under {key!r}{hint}")


def holds_tensors(held: Mapping[Any, Any]) -> bool:
    """Whether there is anything for `checkpoint_of` to find."""
    return any(isinstance(value, Tensor | nn.Module) for value in _flat(held).values())


def _flat(state: Mapping[Any, Any], depth: int = 0, seen: set[int] | None = None) -> dict[str, Any]:
    """All entries by name, of mappings further in ``key.name``, without what wrappers add.

    The state of optimisers and schedulers is left where it is; entries that are neither tensors nor
    mappings are kept at the top only. What stands in two places is taken at the first.
    """
    found: dict[str, Any] = {}
    seen = set() if seen is None else seen
    seen.add(id(state))
    for name, value in state.items():
        if not isinstance(name, str) or name == "_metadata":
            continue
        short = _without_wrappers(name)
        if not isinstance(value, Mapping | nn.Module):
            entries = {short: value} if depth == 0 or isinstance(value, Tensor) else {}
        elif depth < _DEEPEST and id(value) not in seen and not _OF_TRAINING.search(name):
            inner = _flat(_mapping(value), depth + 1, seen)
            entries = {f"{short}.{key}": one for key, one in inner.items()}
        else:
            continue
        if entries.keys() & found.keys():
            raise InputError(f"{short}: names collide once the 'module.' prefix is taken off")
        found |= entries
    return found


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value.state_dict() if isinstance(value, nn.Module) else value


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, nn.Module) or (isinstance(value, Mapping) and holds_tensors(value))


def _without_wrappers(name: str) -> str:
    """The name without what DDP, FSDP and torch.compile put before or inside it."""
    for inside in _INSIDE:
        name = name.replace(f".{inside}", ".")
    while name.startswith(_WRAPPERS):
        name = next(name.removeprefix(one) for one in _WRAPPERS if name.startswith(one))
    return name


def _without_ignored(
    tensors: dict[str, Any], ignore: Sequence[str], what: str, notes: list[str]
) -> dict[str, Any]:
    for pattern in ignore:
        hit = [name for name in tensors if fnmatchcase(name, pattern)]
        if not hit:
            near = did_you_mean(pattern, list(tensors))
            raise InputError(f"--ignore {pattern}: no name in {what} matches{near}")
        gone = set(hit)
        tensors = {name: value for name, value in tensors.items() if name not in gone}
        notes.append(f"ignored {len(hit)} that match {pattern!r} ({hit[0]})")
    return tensors


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
