"""Unpickle weight files that hold other objects, without importing or calling anything of theirs.

PyTorch's own restricted reader refuses a file for one object that it does not know: a NumPy scalar,
a path, the settings of a trainer. Here each name that it does not know becomes a stand-in, a class
that takes anything and does nothing. The functions that are called are those of PyTorch's list and
no others, and nothing but dicts, lists, sets and stand-ins is written to.
"""

from __future__ import annotations

import argparse
import pickle
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._weights_only_unpickler import _get_allowed_globals

_WRITABLE = (dict, OrderedDict, Counter)
_TYPES = {
    **{"f2": torch.float16, "f4": torch.float32, "f8": torch.float64, "u1": torch.uint8},
    **{"i1": torch.int8, "i2": torch.int16, "i4": torch.int32, "i8": torch.int64},
}
_OURS: dict[str, Any] = {"argparse.Namespace": argparse.Namespace}


class Inert(dict):
    """A stand-in for an object of a class that is not imported; what was set is kept, unread."""

    state: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key, or in a set
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __call__(self, *args: Any, **kwargs: Any) -> Inert:
        return Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, item: Any) -> None:
        """Take an item, as of a list."""

    def extend(self, items: Iterable[Any]) -> None:
        """Take items, as of a list."""

    def add(self, item: Any) -> None:
        """Take an item, as of a set."""


class InertArray(Inert):
    """A stand-in for a NumPy array, of which plain numbers can be read."""

    def tensor(self) -> Tensor | None:
        """The array; None if it is not of plain numbers, or damaged."""
        try:
            _, shape, kind, columns_first, data = self.state
            code = kind.code.lstrip("<|=")
            if code not in _TYPES or columns_first or not isinstance(data, bytes | str):
                return None
            held = data.encode("latin1") if isinstance(data, str) else data
            return torch.frombuffer(bytearray(held), dtype=_TYPES[code]).reshape(tuple(shape))
        except (AttributeError, TypeError, ValueError, RuntimeError):
            return None


class InertType(Inert):
    """A stand-in for a NumPy dtype: its code, such as ``f4``."""

    def __init__(self, code: Any = "", *args: Any) -> None:
        super().__init__()
        self.code = code if isinstance(code, str) else ""


class Unpickler(pickle._Unpickler):  # the one in C cannot be restricted
    """What `torch.load` reads with, given this module as its ``pickle_module``."""

    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """One of PyTorch's own, or a stand-in; nothing is imported."""
        whole = f"{module.replace('__builtin__', 'builtins')}.{name}"
        known = {**_get_allowed_globals(), **_OURS}
        return known[whole] if whole in known else _stand_in(whole)

    def load_build(self) -> None:
        """BUILD: set the state of a stand-in or of PyTorch's own objects."""
        state, inst = self.stack.pop(), self.stack[-1]
        if isinstance(inst, Inert):
            inst.state = state
        elif type(inst) in (argparse.Namespace, OrderedDict) and isinstance(state, dict):
            inst.__dict__.update({key: state[key] for key in state if isinstance(key, str)})
        elif type(inst) is Tensor:
            inst.set_(*state)
        elif type(inst) is torch.nn.Parameter:
            inst.__setstate__(state)
        elif type(inst) is not OrderedDict:
            raise pickle.UnpicklingError(f"the state of an object of {type(inst).__name__}")

    dispatch[pickle.BUILD[0]] = load_build

    def load_reduce(self) -> None:
        """REDUCE: call one of PyTorch's functions, or make a stand-in."""
        args = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], args, {})

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """NEWOBJ: the same for a class."""
        args = self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], args, {})

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_newobj_ex(self) -> None:
        """NEWOBJ_EX: the same with keywords."""
        keywords, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = _called(self.stack[-1], args, keywords)

    dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex

    def _instantiate(self, kind: Any, args: Any) -> None:
        self.append(_called(kind, tuple(args), {}))

    def load_append(self) -> None:
        """APPEND: only to a list or a stand-in."""
        value = self.stack.pop()
        _only(self.stack[-1], list).append(value)

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        """APPENDS: the same for several."""
        items = self.pop_mark()
        _only(self.stack[-1], list).extend(items)

    dispatch[pickle.APPENDS[0]] = load_appends

    def load_setitem(self) -> None:
        """SETITEM: only of a dict or a stand-in."""
        value, key = self.stack.pop(), self.stack.pop()
        _only(self.stack[-1], *_WRITABLE)[key] = value

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        """SETITEMS: the same for several."""
        items = self.pop_mark()
        target = _only(self.stack[-1], *_WRITABLE)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_additems(self) -> None:
        """ADDITEMS: only to a set or a stand-in."""
        items = self.pop_mark()
        target = _only(self.stack[-1], set)
        for item in items:
            target.add(item)

    dispatch[pickle.ADDITEMS[0]] = load_additems


def load(file: Any, **options: Any) -> Any:
    """As `pickle.load`, restricted."""
    return Unpickler(file, **options).load()


def without_stand_ins(held: Any) -> Any:
    """``held`` with tensors in place of the NumPy arrays in its dicts."""
    seen: set[int] = set()
    waiting = [held]
    while waiting:
        one = waiting.pop()
        if not isinstance(one, dict) or id(one) in seen:
            continue
        seen.add(id(one))
        for key, value in one.items():
            if isinstance(value, InertArray) and (tensor := value.tensor()) is not None:
                one[key] = tensor
        waiting += one.values()
    return held


def _called(function: Callable[..., Any], args: Any, keywords: Mapping[str, Any]) -> Any:
    inert = isinstance(function, Inert) or (
        isinstance(function, type) and issubclass(function, (Inert, argparse.Namespace))
    )
    if inert:
        return function(*args) if isinstance(args, tuple) else function()
    if function is bytearray and not isinstance(args[0] if args else b"", bytes | str):
        raise pickle.UnpicklingError("a bytearray of a size")
    if not any(function is known for known in _get_allowed_globals().values()) or keywords:
        raise pickle.UnpicklingError(f"a call of {function!r:.80}")
    return function(*args)


def _only(target: Any, *kinds: type) -> Any:
    if type(target) not in kinds and not isinstance(target, Inert):
        raise pickle.UnpicklingError(f"a change of an object of {type(target).__name__}")
    return target


@cache
def _stand_in(name: str) -> type[Inert]:
    """A class of that name, for messages."""
    if name in ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"):
        return InertArray
    if name == "numpy.dtype":
        return InertType
    return type(name.rpartition(".")[2] or "Inert", (Inert,), {"__module__": "dcnify.inert"})
