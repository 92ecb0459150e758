"""Isolating a region of a block leaves everything the model does as it was."""

from __future__ import annotations

import copy
import functools
import json

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from timm.models.swin_transformer import SwinTransformer, SwinTransformerBlock
from timm.models.swin_transformer_v2 import SwinTransformerV2, SwinTransformerV2Block
from torch import nn
from torch.utils.checkpoint import checkpoint

from dcnify.errors import InputError
from dcnify.graph.calls import Call
from dcnify.graph.isolate import Isolation, isolate, undo
from dcnify.graph.isolation.locate import Wanted, locate
from dcnify.graph.isolation.trace import CannotIsolate


class Block(nn.Module):
    """A depthwise convolution by hand, in a forward that does more; drops at random in training."""

    def __init__(self, channels: int = 8):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.weight = nn.Parameter(torch.randn(channels, 1, 3, 3))
        self.mix = nn.Conv2d(channels, channels, 1)
        self.path = DropPath(0.5)
        self.rate = 0.2

    def forward(self, x, scale=None, gain: float = 1.0):
        y = F.conv2d(self.norm(x), self.weight, padding=1, groups=x.shape[1])
        y = F.dropout(y, self.rate, self.training)
        if scale is not None:
            y = y * scale
        return x + self.path(self.mix(y)) * gain

    def between(self, x):
        """The region that the tests isolate."""
        return F.conv2d(x, self.weight, padding=1, groups=x.shape[1])


class Net(nn.Module):
    """Calls one block twice, once by keyword, and once under gradient checkpointing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = Block()
        self.checkpointing = False

    def forward(self, x):
        x = self.block(self.stem(x))
        if self.checkpointing:
            return checkpoint(self.block, x, use_reentrant=False).mean((2, 3))
        return self.block(x=x, gain=1.0).mean((2, 3))


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def planned(net: nn.Module) -> Isolation:
    block, x = net.block.eval(), torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        entry = block.norm(x)
        wanted = Wanted(entry, block.between(entry), block.between)
    return locate(block, "block", "conv_region", Call((x,)), wanted)


@pytest.fixture
def nets() -> tuple[Net, Net, Isolation]:
    """The model as it was, the same with its convolution isolated, and the isolation."""
    before = Net()
    after = copy.deepcopy(before)
    isolation = planned(before)
    isolate(after, isolation)
    return before, after, isolation


def trained(net: nn.Module, *, mode: bool = True):
    """Output, gradients and buffers after one backward pass from the same random state."""
    net.train(mode).zero_grad()
    torch.manual_seed(3)
    output = net(images())
    output.square().sum().backward()
    gradients = [p.grad for p in net.parameters()]
    return (
        output,
        {str(g.shape) + str(g.sum().item()) for g in gradients},
        dict(net.named_buffers()),
    )


@pytest.mark.parametrize("mode", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
def test_outputs_gradients_and_statistics_are_the_same_bits(nets, mode, checkpointing):
    before, after, _ = nets
    before.checkpointing = after.checkpointing = checkpointing
    for _ in range(2):  # the mode is switched in between
        (a, left, seen), (b, right, now) = (trained(net, mode=mode) for net in (before, after))
        assert torch.equal(a, b)
        assert left == right
        assert all(torch.equal(now[name], value) for name, value in seen.items())
        mode = not mode


def test_only_the_names_of_the_region_change_in_the_state_dict(nets):
    before, after, _ = nets
    moved = {name: f"block.conv_region.{name.removeprefix('block.')}" for name in ("block.weight",)}
    assert {moved.get(name, name) for name in before.state_dict()} == set(after.state_dict())


def test_the_block_stays_what_it_was(nets):
    _, after, _ = nets
    calls = []
    after.block.register_forward_hook(lambda *_: calls.append(1))
    after(images())
    assert type(after.block) is Block
    assert after.block.rate == 0.2
    assert "conv_region" in repr(after)
    assert len(calls) == 2


def test_another_batch_and_size_run_too(nets):
    before, after, _ = nets
    x = torch.randn(3, 3, 24, 20)
    assert torch.equal(before.eval()(x), after.eval()(x))


@pytest.mark.slow
def test_it_is_copied_compiled_and_exported_like_any_model(nets):
    before, after, _ = nets
    expected = before.eval()(images())
    twin = copy.deepcopy(after).eval()
    assert torch.equal(twin(images()), expected)
    assert twin.block.conv_region.weight is not after.block.conv_region.weight
    compiled = torch.compile(after.eval(), backend="eager", fullgraph=True)
    assert torch.equal(compiled(images()), expected)
    for strict in (False, True):
        program = torch.export.export(after, (images(),), strict=strict)
        assert torch.allclose(program.module()(images()), expected, atol=1e-6)


def test_undone_the_model_is_as_before(nets):
    before, after, isolation = nets
    undo(after, [isolation])
    assert list(after.state_dict()) == list(before.state_dict())
    assert "forward" not in vars(after.block)
    assert torch.equal(after.eval()(images()), before.eval()(images()))


def test_a_plan_repeats_it_on_the_meta_device(nets):
    _, after, isolation = nets
    read = Isolation.from_dict(json.loads(json.dumps(isolation.to_dict())))
    with torch.device("meta"):
        fresh = Net()
    isolate(fresh, read)
    fresh.load_state_dict(after.state_dict(), strict=True, assign=True)
    assert torch.equal(fresh.eval()(images()), after.eval()(images()))


def test_another_version_of_the_block_is_refused_in_one_line(nets):
    *_, isolation = nets
    other = Net()
    other.block.rate = 0.3
    with pytest.raises(InputError, match=r"plan: block cannot be isolated .*version"):
        isolate(other, isolation)


def test_what_the_trace_took_for_granted_is_checked_at_every_call(nets):
    _, after, _ = nets
    with pytest.raises(InputError, match="scale=None"):
        after.block(torch.randn(1, 8, 4, 4), torch.ones(1))
    after.block.rate = 0.5
    with pytest.raises(InputError, match=r"rate=0\.2"):
        after(images())


def test_a_child_that_is_used_elsewhere_too_stays_where_it_is():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8)

        def forward(self, x):
            return x + self.inner(torch.tanh(self.inner(torch.relu(x))))

    block, x = Twice(), torch.randn(2, 4, 8)
    entry, function = torch.relu(x), lambda y: torch.tanh(block.inner(y))
    isolation = locate(block, "", "region", Call((x,)), Wanted(entry, function(entry), function))
    expected = block(x)
    region = isolate(block, isolation)
    assert region.inner is block.inner
    assert torch.equal(block(x), expected)


class Branching(Block):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Remembering(Block):
    def forward(self, x):
        self.last = super().forward(x)
        return self.last


class Counting(Block):
    def forward(self, x):
        return super().forward(x) + torch.arange(4).sum()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Branching, "control flow"), (Remembering, "stores 'last'"), (Counting, "makes tensors")],
)
def test_a_block_that_cannot_be_traced_says_why_in_one_line(kind, reason):
    net = Net()
    net.block = kind()
    with pytest.raises(CannotIsolate, match=reason) as caught:
        planned(net)
    assert "\n" not in str(caught.value)


class Marking(Block):
    """Sets a part of a tensor that it makes."""

    def forward(self, x):
        return super().forward(self.marked(x))

    def marked(self, x):
        mask = x.new_zeros(1, 1, x.shape[2], x.shape[3])
        mask[:, :, 1:3] = 1
        return x + mask


def test_a_block_may_assign_to_a_part_of_a_tensor_that_it_makes():
    block, x = Marking().eval(), torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        entry = block.norm(block.marked(x))
        wanted = Wanted(entry, block.between(entry), block.between)
        net, expected = nn.Sequential(block), block(x)
        isolate(net, locate(block, "0", "conv_region", Call((x,)), wanted))
        assert isinstance(net[0].conv_region, nn.Module)
        assert torch.equal(net(x), expected)


SMALL = {"img_size": 56, "embed_dim": 16, "depths": (2, 2), "num_heads": (2, 4)}
RATES = {"drop_path_rate": 0.5, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1, "num_classes": 5}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "block_kind"),
    [(SwinTransformer, SwinTransformerBlock), (SwinTransformerV2, SwinTransformerV2Block)],
)
def test_the_whole_window_attention_of_swin_becomes_a_module(kind, block_kind):
    before = kind(**SMALL, **RATES).eval()
    after = copy.deepcopy(before)
    seen: dict[str, dict] = {}
    blocks = {path: one for path, one in before.named_modules() if isinstance(one, block_kind)}

    def keep(path, what, _module, args, output):
        seen.setdefault(path, {})[what] = (args[0], output)

    for path, block in blocks.items():
        for what in (block, block.norm1, block.drop_path1):
            name = next((n for n, m in block.named_children() if m is what), "block")
            what.register_forward_hook(functools.partial(keep, path, name))
    with torch.no_grad():
        before(images(2)[..., :1].expand(2, 3, 16, 16).repeat(1, 1, 4, 4)[..., :56, :56])
    for path, block in blocks.items():
        if kind is SwinTransformer:
            entry, leave = seen[path]["norm1"][1], seen[path]["drop_path1"][0]
        else:
            entry, leave = seen[path]["block"][0], seen[path]["norm1"][0]
        wanted = Wanted(entry, leave, block._attn)
        isolation = locate(block, path, "region", Call((seen[path]["block"][0],)), wanted)
        isolate(after, isolation)
    x = torch.randn(2, 3, 56, 56)
    for mode in (False, True):
        outputs = []
        for net in (before, after):
            torch.manual_seed(5)
            outputs.append(net.train(mode)(x))
        assert torch.equal(*outputs)
    assert not any(".attn." in name and "region" not in name for name in after.state_dict())
