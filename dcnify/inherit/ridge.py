"""Ridge regression from streamed rows, with the penalty chosen on images that were left out."""

from __future__ import annotations

import torch
from torch import Tensor

PENALTIES = tuple(10.0 ** (power / 2) for power in range(-10, 1))
"""Relative to the mean square of the features."""


class Ridge:
    """The linear map W that takes features to targets, W x ≈ t, drawn towards ``prior``.

    Only sums of products are kept, one set for each of two halves of the images: the penalty is the
    one under which each half, fitted alone, predicts the other best. Neighbouring rows of an image
    are much alike, so rows of one image are never on both sides, unless there is only one: then its
    first rows and its last are the halves.

    Args:
        prior: (outputs, features) where W is drawn to, in float64 on the CPU.
    """

    def __init__(self, prior: Tensor) -> None:
        outputs, features = prior.shape
        self.prior = prior
        self._gram = [prior.new_zeros(features, features) for _ in range(2)]
        self._cross = [prior.new_zeros(outputs, features) for _ in range(2)]
        self._square = [0.0, 0.0]
        self._rows = [0, 0]
        self._first: tuple[Tensor, Tensor] | None = None
        self._images = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Take in the rows of one image: (N, features) and (N, outputs).

        Rows that are not finite tell nothing and are left out.
        """
        x, t = features.double().cpu(), targets.double().cpu()
        finite = torch.isfinite(x).all(1) & torch.isfinite(t).all(1)
        if not finite.all():
            x, t = x[finite], t[finite]
        self._images += 1
        if self._images == 1:
            self._first = x, t
            return
        if self._first is not None:
            self._count(0, *self._first)
            self._first = None
        self._count((self._images - 1) % 2, x, t)

    def _count(self, half: int, x: Tensor, t: Tensor) -> None:
        left = t - x @ self.prior.T
        self._gram[half] += x.T @ x
        self._cross[half] += left.T @ x
        self._square[half] += float(left.square().sum())
        self._rows[half] += len(x)

    def solve(self, slack: float = 0.0) -> tuple[Tensor, float]:
        """(outputs, features) W, and the share of the targets' square that it leaves unexplained.

        The share, of what the prior leaves, is measured on images that W was not fitted to. Where
        nothing is gained there, W is the prior.

        Args:
            slack: how much more than the least error, as a share of it, may be left by a W nearer
                to the prior (as the one-standard-error rule of Breiman et al., 1984, with a share
                in place of the standard error).
        """
        if self._first is not None:
            (x, t), self._first = self._first, None
            for half, rows in enumerate((slice(len(x) // 2), slice(len(x) // 2, None))):
                self._count(half, x[rows], t[rows])
        scale = sum(float(gram.diagonal().sum()) for gram in self._gram) / len(self._gram[0])
        total = sum(self._square)
        if not (min(self._rows) and total > 0 and scale > 0):
            return self.prior.clone(), 1.0
        tried = PENALTIES if slack else PENALTIES[::2]
        errors = {penalty: self._left_out(penalty * scale) for penalty in tried}
        enough = (1 + slack) * min(errors.values())
        if enough >= total:  # nothing carries over from image to image
            return self.prior.clone(), 1.0
        penalty = max(one for one, error in errors.items() if error <= enough)
        gram, cross = self._gram[0] + self._gram[1], self._cross[0] + self._cross[1]
        return self.prior + _solved(gram, cross, 2 * penalty * scale), errors[penalty] / total

    def _left_out(self, penalty: float) -> float:
        error = 0.0
        for fitted, other in ((0, 1), (1, 0)):
            change = _solved(self._gram[fitted], self._cross[fitted], penalty)
            explained = 2 * (change * self._cross[other]).sum()
            explained -= ((change @ self._gram[other]) * change).sum()
            error += self._square[other] - float(explained)
        return error


def _solved(gram: Tensor, cross: Tensor, penalty: float) -> Tensor:
    """The minimiser of |W X - T|² + penalty·|W|², from X Xᵀ and T Xᵀ."""
    penalised = gram + penalty * torch.eye(len(gram), dtype=gram.dtype)
    return torch.cholesky_solve(cross.T, torch.linalg.cholesky(penalised)).T
