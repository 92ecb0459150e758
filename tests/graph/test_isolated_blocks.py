"""Blocks that are told sizes, store, loop, hand out or take any keyword are isolated as well."""

from __future__ import annotations

import pytest
import torch
from support.deciding_block import Block, images, isolated, of_seed
from torch import nn

from dcnify.errors import InputError
from dcnify.graph.calls import Call
from dcnify.graph.isolate import isolate
from dcnify.graph.isolation.locate import Wanted, locate
from dcnify.graph.isolation.trace import CannotIsolate


class Told(nn.Module):
    """Is told its rows and columns; the region has the first of its two batch norms."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.BatchNorm1d(8), nn.BatchNorm1d(8)

    def forward(self, x, size):
        rows, columns = size
        y = self.region(x.view(x.shape[0], rows, columns, 8), rows, columns)
        return x + self.last(y.reshape(x.shape[0], rows * columns, 8).mT).mT

    def region(self, x, rows, columns):
        x = self.first(x.flatten(1, 2).mT).mT.unflatten(1, (rows, columns))
        return x.transpose(1, 2).reshape(-1, rows, columns, 8)


def test_rows_and_columns_that_a_block_is_told_are_not_mixed_up():
    block, before = of_seed(Told), of_seed(Told)
    call = Call((torch.randn(2, 36, 8), (6, 6)))
    with torch.no_grad():
        entry = call.args[0].view(2, 6, 6, 8)
        wanted = Wanted(entry, block.region(entry, 6, 6), lambda y: block.region(y, *y.shape[1:3]))
        isolate(block, locate(block, "", "region_2", call, wanted))
    for size in ((6, 6), (4, 8)):
        x = torch.randn(3, size[0] * size[1], 8)
        assert torch.equal(block(x, size), before(x, size))


class Pair(nn.Module):
    def forward(self, x):
        return x * 2, None


class Handing(Block):
    """Hands out what a child makes besides its output, which is None."""

    def __init__(self):
        super().__init__()
        self.pair = Pair()

    def forward(self, x):
        y, weights = self.pair(self.norm(x))
        if weights is not None:
            y = y * weights
        return x + y, weights

    def region(self, x):
        return x * 2


class Single(nn.Module):
    def forward(self, x):
        return (x * 2,)


class HandingAll(Handing):
    """Hands out all that a child makes besides its output, which is nothing."""

    def __init__(self):
        super().__init__()
        self.pair = Single()

    def forward(self, x):
        made = self.pair(self.norm(x))
        return (x + made[0], *made[1:])


class HandingLate(Handing):
    """Decides by the size before that."""

    def forward(self, x):
        y = self.norm(x)
        y, weights = self.pair(y.contiguous() if y.shape[2] > 16 else y)
        return x + y, weights


@pytest.mark.parametrize(
    ("kind", "more"), [(Handing, (None,)), (HandingAll, ()), (HandingLate, (None,))]
)
def test_a_child_may_hand_out_nothing_beside_its_output(kind, more):
    block, before, x = of_seed(kind), of_seed(kind), images(18)
    isolated(block, rows=18)
    assert torch.equal(block(x)[0], before(x)[0])
    assert block(x)[1:] == more
    assert block.pair is None  # the region has it
    block.conv_region = nn.Identity()
    assert block(images(14))[1:] == more


class Remembering(Block):
    """Remembers a size, as some models do."""

    rows: int

    def __init__(self):
        super().__init__()
        self.rows = 0

    def forward(self, x):
        self.rows = min(x.shape[2:])
        return super().forward(x) * self.rows


def test_a_size_that_is_stored_is_stored_by_the_rewritten_block():
    block, before = of_seed(Remembering), of_seed(Remembering)
    isolated(block, rows=10)
    for rows, least in ((6, 6), (14, 12)):
        x = images(rows)
        assert torch.equal(block(x), before(x))
        assert block.rows == before.rows == least


class Counting(Block):
    """Counts its calls."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def test_a_block_that_changes_what_it_decides_by_is_not_isolated():
    with pytest.raises(CannotIsolate, match="stores 'calls'"):
        isolated(of_seed(Counting), rows=18)


class Looping(Block):
    """Loops over a size, and makes tensors of that size."""

    def region(self, x):
        rows = torch.arange(x.shape[2], device=x.device)
        mask = torch.zeros(x.shape[2], device=x.device)
        for index in range(x.shape[1] // 4):
            mask = mask + (rows > index)
        return self.conv(x * mask[:, None] + len(x.shape))


def test_a_block_may_loop_over_a_size_and_make_tensors_of_it():
    block, before = of_seed(Looping), of_seed(Looping)
    isolated(block, rows=18)
    for rows in (18, 7):
        x = images(rows)
        assert torch.equal(block(x), before(x))
    torch.export.export(block, (images(18),))  # rewritten code is like any other


class Modal(Block):
    """Decides by the size of the batch in training only."""

    def forward(self, x):
        y = self.norm(x)
        if self.training and len(x) > 1:
            y = y * 2
        return x + self.region(self.norm(y))


def test_training_may_take_decisions_of_its_own():
    block, before, x = of_seed(Modal), of_seed(Modal), images(18)
    with torch.no_grad():
        entry = block.norm(block.norm(x))
        wanted = Wanted(entry, block.region(entry), block.region)
    isolate(block, locate(block, "", "conv_region", Call((x,)), wanted))
    assert torch.equal(block(x[:1]), before(x[:1]))
    assert torch.equal(block.train()(x), before.train()(x))
    with pytest.raises(InputError, match=r"len\(x\) > 1"):
        block(x[:1])


class Open(Block):
    """Takes any keyword."""

    def forward(self, x, **kwargs):
        return super().forward(x) * kwargs.get("gain", 1) + len(kwargs)


def test_keywords_that_a_forward_does_not_name_are_passed_on():
    block, before, x, gain = of_seed(Open), of_seed(Open), images(18), torch.tensor(3.0)
    isolation = isolated(block, 18, gain=gain, mask=None)
    assert isolation.keywords == ("gain", "mask")
    assert torch.equal(block(x, gain=gain, mask=None), before(x, gain=gain, mask=None))
    with pytest.raises(InputError, match="mask=None"):
        block(x, gain=gain, mask=1)
