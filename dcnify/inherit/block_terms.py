"""Write dense kernels as a sum of block terms: each one pattern in space, and mixes few channels.

A DCNv4 whose points do not move applies kernels (out, in, K) of the form

    kernel[o, i, k] = sum over groups g of  shape[g, k] · (output_g · value_g)[o, i]

where ``output_g · value_g`` has the rank of a group's channels. That is a decomposition in
multilinear rank-(L, L, 1) terms (De Lathauwer, 2008, doi:10.1137/070690729). Of three factors each
has a closed form given the other two; here they take turns, from the better of two starts. The
first takes one term after the other off the kernels. The second is algebraic (as in section 4 of
that paper): kernels that are such a sum, of no more channels than they have, come out exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_SWEEPS, _FEWEST = 40, 4
_WORK = 4e11
"""Floating-point operations after which no further sweep begins."""
_ENOUGH = 3e-4
"""A sweep that gains less than this part of what is left is the last."""
_EXACT = 1e-12
"""Share of the kernels' energy that counts as nothing."""
_RIDGE = 1e-10


@dataclass(frozen=True)
class BlockTerms:
    """``output`` (out, C), ``shapes`` (G, K) and ``value`` (C, in), in float64; C = G·width."""

    output: Tensor
    shapes: Tensor
    value: Tensor

    @property
    def width(self) -> int:
        """Channels of a term."""
        return len(self.value) // len(self.shapes)

    def kernels(self) -> Tensor:
        """(out, in, K): what the terms add up to."""
        return torch.einsum("oc,ck,ci->oik", self.output, _by_channel(self), self.value)

    def left(self, kernels: Tensor) -> float:
        """Share of the energy of ``kernels`` that is not held."""
        energy = kernels.square().sum().clamp_min(1e-300)
        return float((kernels - self.kernels()).square().sum() / energy)


def decompose(kernels: Tensor, groups: int, width: int, generator: torch.Generator) -> BlockTerms:
    """The block terms closest to ``kernels`` (out, in, K), float64.

    Args:
        kernels: what to hold.
        groups: G, the number of terms.
        width: D, the rank of each.
        generator: for the directions that are looked in.
    """
    best = _descended(kernels, _taken_off(kernels, groups, width, generator))
    if best.left(kernels) > _EXACT and groups * width <= min(kernels.shape[:2]):
        pencil = _from_pencil(kernels, groups, width, generator)
        if pencil is not None and pencil.left(kernels) < best.left(kernels):
            best = _descended(kernels, pencil)
    return _evened(best)


def _descended(kernels: Tensor, terms: BlockTerms) -> BlockTerms:
    """Let the factors take turns; the error never grows."""
    outputs, inputs, places = kernels.shape
    cost = 4.0 * outputs * inputs * places * len(terms.value)
    left = terms.left(kernels)
    for _ in range(int(min(_SWEEPS, max(_FEWEST, _WORK / cost)))):
        if left <= _EXACT:
            break
        tried = _evened(_swept(kernels, terms))
        now = tried.left(kernels)
        if not now < left:
            break
        done = left - now < _ENOUGH * left
        terms, left = tried, now
        if done:
            break
    return terms


def _swept(kernels: Tensor, terms: BlockTerms) -> BlockTerms:
    output, shapes, value = terms.output, terms.shapes, terms.value
    each = _by_channel(terms)
    alike = each @ each.mT
    seen = torch.einsum("oik,ci->ock", kernels, value)
    output = _solved(output, alike * (value @ value.mT), (seen * each).sum(2))
    seen = torch.einsum("oik,oc->cik", kernels, output)
    value = _solved(value.mT, alike * (output.mT @ output), (seen * each[:, None]).sum(2).mT).mT
    along = (seen * value[..., None]).sum(1).unflatten(0, (len(shapes), -1)).sum(1)
    blocks = ((output.mT @ output) * (value @ value.mT)).unflatten(0, (len(shapes), -1))
    gram = blocks.unflatten(2, (len(shapes), -1)).sum((1, 3))
    return BlockTerms(output, _solved(shapes.mT, gram, along.mT).mT, value)


def _solved(start: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """``X`` with ``X @ gram`` closest to ``cross``; near ``start`` where that leaves it open."""
    ridge = _RIDGE * gram.diagonal().mean().clamp_min(1e-300)
    upper = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype))
    return start + torch.cholesky_solve((cross - start @ gram).mT, upper).mT


def _by_channel(terms: BlockTerms) -> Tensor:
    """(C, K): the shape of each channel's group."""
    return terms.shapes.repeat_interleave(terms.width, 0)


def _evened(terms: BlockTerms) -> BlockTerms:
    """The same terms, with every shape of norm 1 and a channel's two sides of one size."""
    size = terms.shapes.norm(dim=1, keepdim=True)
    size = torch.where(size > 0, size, 1.0)
    output = terms.output * size.repeat_interleave(terms.width, 0)[:, 0]
    sides = output.norm(dim=0), terms.value.norm(dim=1)
    alive = (sides[0] > 0) & (sides[1] > 0)
    ratio = torch.where(alive, sides[0] / torch.where(alive, sides[1], 1.0), 1.0).sqrt()
    return BlockTerms(output / ratio, terms.shapes / size, terms.value * ratio[:, None])


def _taken_off(kernels: Tensor, groups: int, width: int, generator: torch.Generator) -> BlockTerms:
    """One term after the other, each the closest to what those before it have left."""
    left = kernels.clone()
    parts = []
    for _ in range(groups):
        flat = left.flatten(0, 1)
        shape = torch.linalg.eigh(flat.mT @ flat).eigenvectors[:, -1]
        output, value = _leading(left @ shape, width, generator)
        for _ in range(2):
            shape = torch.einsum("oc,oik,ci->k", output, left, value)
            shape = shape / shape.norm().clamp_min(1e-300)
            output, value = _leading(left @ shape, width, generator)
        left = left - (output @ value)[..., None] * shape
        parts.append((output, shape, value))
    outputs, shapes, values = zip(*parts, strict=True)
    return BlockTerms(torch.cat(outputs, 1), torch.stack(shapes), torch.cat(values))


def _leading(matrix: Tensor, rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(rows, rank) and (rank, columns) whose product is closest to ``matrix``.

    By subspace iteration (Halko et al., 2011, algorithm 4.4) where the rank is far below full.
    """
    rows, columns = matrix.shape
    if 4 * rank >= min(rows, columns):
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    else:
        probe = torch.randn(columns, rank + 8, dtype=matrix.dtype, generator=generator)
        basis = torch.linalg.qr(matrix @ probe).Q
        for _ in range(2):
            basis = torch.linalg.qr(matrix @ (matrix.mT @ basis)).Q
        left, sizes, right = torch.linalg.svd(basis.mT @ matrix, full_matrices=False)
        left = basis @ left
    short = rank - len(sizes)
    left, right = left[:, :rank] * sizes[:rank], right[:rank]
    if short > 0:  # a term may be wider than the kernels have channels
        left = torch.cat((left, left.new_zeros(rows, short)), 1)
        right = torch.cat((right, right.new_zeros(short, columns)))
    return left, right


def _from_pencil(
    kernels: Tensor, groups: int, width: int, generator: torch.Generator
) -> BlockTerms | None:
    """The terms of kernels that are such a sum, from the eigenvectors of a quotient of two slices.

    Mixed over the places by m and n, such kernels are O·diag(m·shape)·V and O·diag(n·shape)·V; the
    first over the second has the columns of O for eigenvectors, with one eigenvalue for each group.
    """
    size = groups * width
    rows = torch.linalg.svd(kernels.flatten(1), full_matrices=False)[0][:, :size]
    columns = torch.linalg.svd(kernels.transpose(0, 1).flatten(1), full_matrices=False)[0]
    columns = columns[:, :size]
    core = torch.einsum("oik,oc,id->cdk", kernels, rows, columns)
    mixes = torch.randn(core.shape[2], 2, dtype=core.dtype, generator=generator)
    first, second = core @ mixes[:, 0], core @ mixes[:, 1]
    try:
        found = torch.linalg.eig(torch.linalg.solve(second.mT, first.mT).mT)
        order = found.eigenvalues.real.argsort()
        spans = found.eigenvectors[:, order].unflatten(1, (groups, width)).transpose(0, 1)
        both = torch.cat((spans.real, spans.imag), 2)
        basis = torch.linalg.svd(both, full_matrices=False)[0][:, :, :width]
        output = basis.transpose(0, 1).flatten(1)
        rest = torch.linalg.solve(output, core.flatten(1))
    except torch.linalg.LinAlgError:  # of kernels that are no such sum
        return None
    mine = rest.unflatten(0, (groups, width)).unflatten(2, core.shape[1:]).flatten(1, 2)
    left, sizes, shapes = torch.linalg.svd(mine, full_matrices=False)
    value = (left[..., 0] * sizes[:, :1]).unflatten(1, (width, size)).flatten(0, 1)
    return BlockTerms(rows @ output, shapes[:, 0], value @ columns.mT)
