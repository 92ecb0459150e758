"""What a set of swaps would do to the model, predicted from what each of them does alone.

Costs add up. Damage does not. Two swaps may push the output the same way or against each other, so
what is added up are the changes of the output on every image, and the damage is taken of the sum.
But in a set a layer is fitted to inputs that others have changed, and its own change is only partly
the one that it makes alone. How much of it is, a few sets that were measured say; the rest points
anywhere, and there it is damages that add up. And where layers are fitted on images in the order in
which they run, each new layer makes up for a part of the errors before it: a change counts less the
more swaps come after it. How much less, in the first layers and in the last, is fitted to the same
sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dcnify.search.choose.methods import Chosen, Vector

KL, ERROR = "kl", "error"
_CLOSE, _STEPS = 1e-3, 40
_FITTING, _PRIOR = 150, 1e-3
_DRAWS = 8


@dataclass(frozen=True)
class Cost:
    """A quantity of the whole model, and what each swap adds to it."""

    original: float
    added: Vector
    """(n,): negative where a swap makes the model cheaper."""

    def of(self, chosen: Chosen) -> float:
        """The quantity with a set of swaps."""
        return self.original + float(self.added @ chosen)

    def scaled_to(self, chosen: Chosen, measured: float) -> Cost:
        """The cost whose prediction of a set is what was measured."""
        predicted = self.of(chosen) - self.original
        factor = (measured - self.original) / predicted if predicted else 1.0
        return replace(self, added=self.added * factor) if factor > 0 else self


@dataclass(frozen=True)
class Effects:
    """What the model gives on the measured images, and how each swap alone changes it."""

    original: Tensor
    """(N, D): the original's output."""
    changes: Tensor
    """(n, N, D)."""
    are_logits: bool
    factor: float = 1.0
    """What changes are multiplied by, after a set was measured."""
    kept: tuple[float, float] = (1.0, 1.0)
    """Share of a change that is left after many later swaps: of the first layer and of the last,
    and in between along a line."""
    fading: float = 0.7
    """Share of the rest that each later swap leaves."""
    coherence: float = 1.0
    """Share of a change that is in a set what it is alone."""
    flips: float = 1.0
    """What the predicted share of images whose class changes in a set is multiplied by."""

    @property
    def measure(self) -> str:
        """The name of the damage: ``kl`` for logits, else ``error``."""
        return KL if self.are_logits else ERROR

    def shares(self, chosen: Chosen) -> Vector:
        """(n,): the share that is left of each change, in a set or added to it."""
        later: Vector = np.cumsum(chosen[::-1].astype(np.float64))[::-1] - chosen
        kept = np.linspace(*self.kept, len(chosen))
        shares: Vector = kept + (1 - kept) * self.fading**later
        return self.factor * shares

    def output(self, chosen: Chosen, signs: Vector | float = 1.0) -> Tensor:
        """The predicted output with a set of swaps, whose changes are multiplied by ``signs``."""
        picked = np.flatnonzero(chosen)
        shares = torch.from_numpy((signs * self.shares(chosen))[picked]).to(self.changes)
        return self.original + torch.tensordot(shares, self.changes[torch.from_numpy(picked)], 1)

    def damage(self, chosen: Chosen) -> float:
        """Predicted damage of a set."""
        together = damage(self.original, self.output(chosen), self.are_logits)
        apart = float(self.shares(chosen)[chosen] ** 2 @ self._alone[chosen])
        return self.coherence * together + (1 - self.coherence) * apart

    def agreement(self, chosen: Chosen) -> float | None:
        """Predicted share of images on which the class stays; None without classes.

        As with the damage, changes add up as far as they cohere. For the rest they point anywhere:
        there, the mean is taken over random signs of all changes but the strongest.
        """
        if not self.are_logits:
            return None
        together = agreement(self.original, self.output(chosen))
        if chosen.sum() < 2:
            return together
        if self.coherence < 1:
            signs = _signs(len(chosen))
            signs = signs * signs[:, [np.argmax(np.where(chosen, self._alone, -1))]]
            apart = [agreement(self.original, self.output(chosen, one)) for one in signs]
            together = self.coherence * together + (1 - self.coherence) * float(np.mean(apart))
        return max(0.0, 1 - self.flips * (1 - together))

    def matrix(self, near: Chosen | None = None) -> Vector:
        """(n, n): the damage of a set as a sum over its pairs.

        The diagonal holds each swap's own damage. Elsewhere the second order of the damage says
        how far two changes point the same way: the KL divergence is half the square of the change
        under the Fisher information of the logits, diag(p) - p·pᵀ.

        Args:
            near: changes count as much as they do in this set; by default as if each was alone.
        """
        shares = self.shares(np.zeros(len(self.changes), bool) if near is None else near)
        flat = self._under_metric(self.changes).flatten(1)
        gram = (flat @ flat.T).numpy()
        size = np.sqrt(np.diag(gram))
        size[size == 0] = 1.0
        spread = np.sqrt(np.maximum(self._alone, 0.0)) * shares
        same_way = self.coherence * gram / np.outer(size, size)
        np.fill_diagonal(same_way, 1.0)
        return np.asarray(same_way * np.outer(spread, spread))

    def _under_metric(self, changes: Tensor) -> Tensor:
        """Changes of the output, of which the damage is the square, up to a factor."""
        changes = changes.double()
        if not self.are_logits:
            return changes
        p = self.original.double().softmax(-1)
        return p.sqrt() * (changes - (p * changes).sum(-1, keepdim=True))

    @property
    def _alone(self) -> Vector:
        """(n,): the damage of each change as it was measured."""
        return _damages(self.original, self.changes, self.are_logits)

    def cohering_as(self, measured: Sequence[tuple[Chosen, Tensor]]) -> Effects:
        """The effects with the coherence of sets whose outputs were measured: the mean share of
        their change, under the metric of the damage, that lies along the sum of single ones."""
        shares = []
        for chosen, output in measured:
            found = self._under_metric(output - self.original).flatten()
            added = self._under_metric(self.changes[torch.from_numpy(chosen)].sum(0)).flatten()
            size = float((found @ found) * (added @ added))
            shares.append(float(found @ added) ** 2 / size if size else 1.0)
        return replace(self, coherence=float(np.mean(shares))) if shares else self

    def agreeing_as(self, measured: Sequence[tuple[Chosen, float]]) -> Effects:
        """The effects with the `flips` of sets whose agreement was measured, all counted together;
        two images more of each kind keep a few from deciding."""
        plain, images = replace(self, flips=1.0), len(self.original)
        pairs = [(plain.agreement(chosen), found) for chosen, found in measured]
        guessed = sum(1 - guess for guess, _ in pairs if guess is not None)
        seen = sum(1 - found for guess, found in pairs if guess is not None)
        return replace(self, flips=(images * seen + 2) / (images * guessed + 2))

    def fitted_to(self, measured: Sequence[tuple[Chosen, float]]) -> Effects:
        """The effects with the `kept` and `fading` that fit the damage of sets best."""
        from scipy.optimize import minimize

        sets = [(chosen, found) for chosen, found in measured if found > 0 and chosen.sum() > 1]

        def with_shares(point: Vector) -> Effects:
            first, last, fading = 1 / (1 + np.exp(-point))
            return replace(self, kept=(2 * first, 2 * last), fading=fading)

        def miss(point: Vector) -> float:
            one = with_shares(point)
            off = [np.log(max(one.damage(chosen), 1e-12) / found) for chosen, found in sets]
            return float(np.square(off).sum() + _PRIOR * np.square(point - start).sum())

        start = np.array([0.0, 0.0, np.log(0.7 / 0.3)])
        if not sets:
            return self
        found = minimize(miss, start, method="Nelder-Mead", options={"maxiter": _FITTING})
        return with_shares(found.x)

    def scaled_to(self, chosen: Chosen, measured: float) -> Effects:
        """The effects whose predicted damage of a set is what was measured, by bisection."""
        low, high = 0.0, self.factor
        while replace(self, factor=high).damage(chosen) < measured and high < 1e3 * self.factor:
            low, high = high, 2 * high
        for _ in range(_STEPS):
            middle = (low + high) / 2
            found = replace(self, factor=middle).damage(chosen)
            low, high = (middle, high) if found < measured else (low, middle)
            if abs(found - measured) <= _CLOSE * measured:
                break
        return replace(self, factor=(low + high) / 2)


@dataclass(frozen=True)
class Prediction:
    """Damage and costs of every set."""

    effects: Effects
    costs: Mapping[str, Cost]
    """By name: ``latency`` in milliseconds, ``flops`` and ``params`` as counts."""

    @property
    def count(self) -> int:
        """Number of candidates."""
        return len(self.effects.changes)

    def values(self, chosen: Chosen) -> dict[str, float | None]:
        """All quantities of a set, under the names that budgets bound them by."""
        size = int(chosen.sum())
        found: dict[str, float | None] = {
            "sites": size,
            "sites_ratio": size / self.count,
            self.effects.measure: self.effects.damage(chosen),
            "agreement": self.effects.agreement(chosen),
        }
        for name, cost in self.costs.items():
            found[name] = cost.of(chosen)
            found[f"{name}_ratio"] = cost.of(chosen) / cost.original if cost.original else 1.0
        return found


@lru_cache(maxsize=4)
def _signs(count: int) -> Vector:
    """(draws, n): the same in every call, so that predictions compare."""
    return np.random.default_rng(0).choice((-1.0, 1.0), (_DRAWS, count))


@lru_cache(maxsize=4)
def _damages(original: Tensor, changes: Tensor, are_logits: bool) -> Vector:
    return np.array([damage(original, original + one, are_logits) for one in changes])


def damage(original: Tensor, output: Tensor, are_logits: bool) -> float:
    """Mean KL(original || output) in nats; without classes the squared relative error."""
    before, now = original.double(), output.double()
    if are_logits:
        p, q = before.log_softmax(-1), now.log_softmax(-1)
        return float((p.exp() * (p - q)).sum(-1).mean())
    return float((now - before).square().sum() / before.square().sum().clamp_min(1e-30))


def agreement(original: Tensor, output: Tensor) -> float:
    """Share of images for which both name the same class."""
    return float((original.argmax(-1) == output.argmax(-1)).double().mean())
