"""How a layer of tokens is called: which argument holds them, which the grid, which a mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dcnify.errors import InputError
from dcnify.nn.geometry import tensor_given

Pair = tuple[int, int]
_HIDES = -1e4
"""What is added to a score so that nothing is left of it; a position bias is far above."""


@dataclass(frozen=True)
class TokenCall:
    """The call of the old layer, as it was when the model was captured.

    Args:
        parameters: names of the positional parameters; empty if they are not known.
        tokens: the parameter that holds the tokens; empty for the first tensor.
        others: parameters that held other tensors: keys and values, position embeddings, a bias.
        grid: parameters that hold the rows and columns of the tokens: one pair, or two numbers.
    """

    parameters: tuple[str, ...] = ()
    tokens: str = ""
    others: tuple[str, ...] = ()
    grid: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-ready data."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TokenCall:
        """Read what `to_dict` wrote."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**known)

    def tokens_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
        """The tokens that a call passes.

        Raises:
            InputError: there are none, or the call asks for a mask or for causality.
        """
        named = self.named(args, kwargs)
        tokens = named.get(self.tokens)
        if not isinstance(tokens, Tensor):
            tokens = tensor_given((), {k: v for k, v in named.items() if "mask" not in k})
        for name, value in named.items():
            if value is True and "causal" in name:
                raise InputError("DCNv4 cannot be causal: this layer replaced a non-causal one")
            if isinstance(value, Tensor) and value is not tokens and self._may_mask(name, value):
                self._refuse_mask(name, value)
        return tokens

    def grid_of(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Pair | None:
        """The rows and columns that a call passes; None if it does not."""
        named = self.named(args, kwargs)
        given = [named.get(name) for name in self.grid]
        sizes = given[0] if len(given) == 1 else given
        if not isinstance(sizes, tuple | list) or len(sizes) != 2:
            return None
        if any(isinstance(size, Tensor) for size in sizes):  # as torch.jit.trace passes numbers
            sizes = [int(size) for size in sizes]
        rows: Any
        columns: Any
        rows, columns = (size if isinstance(size, int | torch.SymInt) else None for size in sizes)
        return None if rows is None or columns is None else (rows, columns)

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by the names of their parameters."""
        count = len(self.parameters)
        names = (self.parameters[i] if i < count else f"argument {i}" for i in range(len(args)))
        return {**dict(zip(names, args, strict=True)), **kwargs}

    def _may_mask(self, name: str, value: Tensor) -> bool:
        if name in self.grid:
            return False
        if "mask" in name or value.dtype == torch.bool:
            return True
        return bool(self.parameters) and name not in self.others

    def _refuse_mask(self, name: str, mask: Tensor) -> None:
        """Raise unless ``mask`` lets every token see every other, as one does that tracing made."""
        torchs_own = "need_weights" in self.parameters
        nothing = lets_all_through(name, mask, torchs_own=torchs_own, bias=name in self.others)
        what = name if "mask" in name else f"the tensor given as {name!r}"
        problem = f"DCNv4 cannot honour {what}: this layer replaced one that was called without"
        if torch.compiler.is_compiling():
            torch._assert_async(nothing.all(), problem)
        elif not nothing.all():
            raise InputError(problem)


def lets_all_through(
    name: str, mask: Tensor, *, torchs_own: bool = False, bias: bool = False
) -> Tensor:
    """Where ``mask`` hides nothing, as booleans.

    Args:
        name: of the argument. Padding is marked by True, a mask over heads multiplies.
        mask: booleans or 0 and 1, of which True is seen; or numbers that are added to scores.
        torchs_own: for `torch.nn.MultiheadAttention`, where True is hidden.
        bias: numbers may be a position bias, which shifts scores and hides nothing.
    """
    if mask.is_floating_point() and "head" not in name:
        return mask > _HIDES if bias else mask == 0
    return mask == 0 if torchs_own or "padding" in name else mask == 1
