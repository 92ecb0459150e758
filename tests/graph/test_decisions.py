"""Blocks whose code decides by sizes are isolated, and decide the same way ever after."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from support.deciding_block import Block, images, isolated, of_seed
from torch import nn

from dcnify.errors import InputError
from dcnify.graph.calls import Call
from dcnify.graph.isolate import Isolation, isolate
from dcnify.graph.isolation.locate import Wanted, locate
from dcnify.graph.isolation.trace import CannotIsolate


def test_a_decision_within_the_region_goes_with_the_region():
    block, before = of_seed(Block), of_seed(Block)
    isolated(block, rows=18)
    for rows in (18, 22):  # padded, too
        x = images(rows)
        assert torch.equal(block(x), before(x))
    with pytest.raises(InputError, match=r"`if more > 0` decides by True"):
        block(images(16))
    block.conv_region = nn.Identity()
    for rows in (16, 18):
        x = images(rows)
        assert torch.equal(block(x), x + block.norm(x))


def test_so_does_one_that_is_taken_again_after_it():
    block = of_seed(Block)
    isolated(block, rows=16)  # nothing is padded, and nothing cut off
    with pytest.raises(InputError, match=r"`if more > 0` decides by False"):
        block(images(18))
    block.conv_region = nn.Identity()
    for rows in (16, 18):
        x = images(rows)
        assert torch.equal(block(x), x + block.norm(x))


class Doubling(Block):
    """Decides about more than the region before it, or between its steps."""

    def forward(self, x, early: bool = True):
        y = self.norm(x)
        if early:
            y = y * 2 if x.shape[2] > 16 else y
            return x + self.conv(self.norm(y))
        y = self.region(y)
        return y + (self.mix(x) if x.shape[2] > 16 else x)


@pytest.mark.parametrize("early", [True, False])
def test_a_decision_about_anything_else_is_kept(early):
    block = of_seed(Doubling)
    x = images(18)
    with torch.no_grad():
        y = block.norm(x)
        entry = block.norm(y * 2) if early else y
        function = block.conv if early else block.region
        wanted = Wanted(entry, function(entry), function)
        isolate(block, locate(block, "", "conv_region", Call((x, early)), wanted))
    block.conv_region = nn.Identity()
    block(images(22), early)
    with pytest.raises(InputError, match=r"x\.shape\[2\] > 16"):
        block(images(14), early)


class Beside(Block):
    """Computes something else between the steps of the region."""

    def forward(self, x):
        y = self.norm(x)
        rows = y.shape[2]
        other = self.mix(x) if rows > 16 else x
        return other + self.region(y)


class After(Block):
    """Decides by the shape of what the region makes."""

    def forward(self, x):
        y = self.region(self.norm(x))
        rows = y.shape[2]
        return y * 2 if rows > 16 else y


@pytest.mark.parametrize("kind", [Beside, After])
def test_a_decision_beside_or_after_the_region_is_kept(kind):
    block = of_seed(kind)
    isolated(block, rows=18)
    block.conv_region = nn.Identity()
    with pytest.raises(InputError, match="rows > 16"):
        block(images(14))


class Scaled(Block):
    """Decides between the steps of the region about a number that is used after it."""

    def forward(self, x):
        y = self.norm(x)
        scale = 3.0 if y.shape[2] > 16 else 0.5
        return x + self.region(y) * scale


class Skipping(Block):
    """Leaves the convolution out of small images."""

    def forward(self, x):
        y = self.norm(x)
        return x + (self.region(y) if y.shape[2] > 16 else y)


class Rolling(Block):
    """Has one convolution for small images and another for large ones."""

    def __init__(self):
        super().__init__()
        self.small = nn.Parameter(torch.randn(8, 1, 3, 3))

    def forward(self, x):
        return x + self.region(self.norm(x))

    def conv(self, x):
        weight = self.weight if x.shape[2] > 16 else self.small
        return F.conv2d(x, weight, padding=1, groups=8)


class Counted(Block):
    """Counts large images."""

    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        y = self.norm(x)
        if y.shape[2] > 16:
            self.count.add_(1)
        return x + self.region(y)


class Twice(Block):
    """Uses the output of the region twice, the second time changed for small images."""

    def forward(self, x):
        y = self.norm(x)
        z = self.region(y)
        return z * 3 + (z if y.shape[2] > 16 else z.relu())


class Halved(Block):
    """Halves the output of the region of small images, after it."""

    def forward(self, x):
        y = self.norm(x)
        z = self.region(y)
        return x + (z if y.shape[2] > 16 else z * 0.5)


@pytest.mark.parametrize("kind", [Scaled, Skipping, Rolling, Counted, Twice, Halved])
def test_a_decision_about_more_than_the_steps_of_the_region_is_kept(kind):
    block = of_seed(kind)
    isolated(block, rows=20)
    block.conv_region = nn.Identity()
    block(images(24))
    with pytest.raises(InputError, match=r"shape\[2\] > 16"):
        block(images(12))


class ScaledByOutput(Block):
    """Decides by what the region makes about a number that is used after it."""

    def forward(self, x):
        y = self.conv(self.norm(x))
        scale = 3.0 if y.shape[2] > 16 else 0.5
        return x + y * 2 * scale

    def region(self, x):
        return self.conv(x) * 2


def test_what_the_region_makes_may_not_decide_about_the_rest():
    with pytest.raises(CannotIsolate, match="may decide about more than the region"):
        isolated(of_seed(ScaledByOutput), rows=18)


class Inside(Block):
    """Decides by the shape of what the region's first step makes, with other steps in between."""

    def forward(self, x):
        y = self.conv(self.norm(x))
        x = self.mix(x)
        return x + (y.roll(1, 2) if y.shape[2] > 16 else y)

    def region(self, x):
        y = self.conv(x)
        return y.roll(1, 2) if x.shape[2] > 16 else y


def test_a_decision_by_what_the_region_makes_goes_with_it():
    block, before, x = of_seed(Inside), of_seed(Inside), images(18)
    isolated(block, rows=18)
    assert torch.equal(block(x), before(x))
    with pytest.raises(InputError, match=r"y\.shape\[2\] > 16"):
        block(images(14))
    block.conv_region = nn.Identity()
    block(images(14))


class Given(Block):
    """Decides in the region by the size of its own input, and by a number that it is given."""

    def forward(self, x, steps=7):
        y = self.norm(x)
        y = y.roll(1, 2) if x.shape[2] > 16 else y
        return x + self.conv(y.roll(1, 3) if steps > 6 else y)

    def region(self, x):
        return self.conv(x.roll((1, 1), (2, 3)))


def test_a_decision_goes_with_the_region_if_it_follows_from_the_size_of_its_input():
    block, before, x = of_seed(Given), of_seed(Given), images(18)
    isolated(block, rows=18)
    assert torch.equal(block(x), before(x))
    block.conv_region = nn.Identity()
    block(images(14))
    with pytest.raises(InputError, match="steps > 6"):
        block(x, steps=1)


class First(Block):
    """Begins with the region, and reads an attribute after it."""

    gain: float

    def __init__(self):
        super().__init__()
        self.norm, self.gain = nn.Identity(), 2.0

    def forward(self, x):
        return self.region(x) * self.gain


def test_attributes_are_checked_when_the_region_begins_with_the_block():
    block = of_seed(First)
    isolated(block, rows=18)
    block.conv_region, block.gain = nn.Identity(), 3.0
    with pytest.raises(InputError, match=r"gain=2\.0"):
        block(images(18))


@pytest.mark.parametrize(
    "change",
    [
        {"keywords": ["x=print(1)"]},
        {"keywords": [1]},
        {"decisions": {"evaluation": {"bool_1": [1]}}},
        {"decisions": {"evaluation": {"len_1": 10**9}}},
    ],
)
def test_a_plan_with_decisions_that_are_none_is_refused(change):
    given = isolated(of_seed(Block), rows=18).to_dict()
    with pytest.raises(TypeError, match="isolation with"):
        Isolation.from_dict(given | change)


def test_a_plan_without_its_decisions_is_refused_in_one_line():
    given = isolated(of_seed(Block), rows=18).to_dict()
    with pytest.raises(InputError, match=r"cannot be isolated as planned: it decides by bool_1"):
        isolate(of_seed(Block), Isolation.from_dict(given | {"decisions": {}}))


class Endless(Block):
    """Decides again for every row."""

    def forward(self, x):
        y = self.norm(x)
        for row in range(x.shape[2]):
            y = y * 2 if x.shape[2] - row > 4 else y
        return x + self.region(y)


def test_a_block_that_decides_all_the_time_is_given_up():
    block, x = of_seed(Endless), images(64)
    wanted = Wanted(x, block.region(x), block.region)
    with pytest.raises(CannotIsolate, match="more than 32 decisions"):
        locate(block, "", "conv_region", Call((x,)), wanted)
