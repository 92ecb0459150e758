"""How far the weights of two artifacts are apart, layer by layer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

from torch import Tensor

from dcnify.artifact import Artifact
from dcnify.progress import Progress
from dcnify.report.diff.artifacts import neighbours_of
from dcnify.report.diff.difference import WeightChange

NEIGHBOURS = "layers that change with a swap"
OTHERS = "all other layers"


def weight_changes(a: Artifact, b: Artifact, progress: Progress) -> Iterator[WeightChange]:
    """Compare the tensors of equal names: a row for each swapped layer, then all others."""
    one, other = a.mapped_tensors(), b.mapped_tensors()
    plans = (a.plan, b.plan)
    sites = list(dict.fromkeys(swap.site.path for plan in plans for swap in plan.swaps))
    near = dict.fromkeys(path for plan in plans for path in neighbours_of(plan))
    named: dict[str, list[str]] = {path: [] for path in (*sites, NEIGHBOURS, OTHERS)}
    for name in dict.fromkeys((*one, *other)):
        named[_owner(name, sites, near)].append(name)
    done = 0
    for layer, names in named.items():
        progress("comparing weights", done, len(one))
        done += len(names)
        if names:
            yield _compared(layer, names, one, other)


def _owner(name: str, sites: Sequence[str], near: dict[str, None]) -> str:
    """The innermost swapped layer that a tensor belongs to, or what stands for the others."""
    path = name.rpartition(".")[0]
    inside = [site for site in sites if path == site or path.startswith(f"{site}.")]
    return max(inside, key=len) if inside else NEIGHBOURS if path in near else OTHERS


def _compared(
    layer: str, names: Sequence[str], one: dict[str, Tensor], other: dict[str, Tensor]
) -> WeightChange:
    counts: dict[str, int] = defaultdict(int)
    apart = size = 0.0
    for name in names:
        if name not in one or name not in other or one[name].shape != other[name].shape:
            counts["unmatched"] += 1
            continue
        x, y = one[name].double(), other[name].double()
        counts["tensors"] += 1
        counts["changed"] += not x.equal(y)
        apart += float((x - y).square().sum())
        size += float(x.square().sum())
    distance = math.sqrt(apart / size) if size else math.inf if apart else 0.0
    return WeightChange(layer, counts["tensors"], counts["changed"], distance, counts["unmatched"])
