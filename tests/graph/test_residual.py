"""Residual branches are told by data flow: what ends them, scales them, and reads the shortcut."""

import pytest
import timm
import torch
from torch import nn

import dcnify  # noqa: F401  registers InternImage with timm
from dcnify.graph.capture import capture
from dcnify.graph.example import Example
from dcnify.graph.residual import BranchEnd, branch_ends, end_behind

IMAGE = torch.zeros(1, 3, 64, 64)
NCHW, TOKENS = (0, 1, 2, 3), (0, 1, 2)
CASES = {
    "convnext": (
        "convnext_atto",
        {"depths": (1, 1, 0, 0), "dims": (16, 32, 32, 32)},
        [
            BranchEnd(f"{block}.mlp.fc2", f"{block}.gamma", f"{block}.conv_dw", NCHW)
            for block in ("stages.0.blocks.0", "stages.1.blocks.0")
        ],
    ),
    "convnext with linear layers": (
        "convnext_atto",
        {"depths": (1, 0, 0, 0), "dims": (16, 16, 16, 16), "conv_mlp": False},
        [
            BranchEnd(
                "stages.0.blocks.0.mlp.fc2",
                "stages.0.blocks.0.gamma",
                "stages.0.blocks.0.conv_dw",
                (0, 3, 1, 2),
            )
        ],
    ),
    "vit": (
        "deit3_small_patch16_224",
        {"img_size": 64, "depth": 1, "embed_dim": 32, "num_heads": 2},
        [
            BranchEnd("blocks.0.attn.proj", "blocks.0.ls1.gamma", "blocks.0.norm1", TOKENS),
            BranchEnd("blocks.0.mlp.fc2", "blocks.0.ls2.gamma", "blocks.0.norm2", TOKENS),
        ],
    ),
    "mobilenet": ("test_efficientnet", {}, []),  # a batch norm stands between
}


@pytest.mark.parametrize("case", CASES)
def test_ends_of_branches_are_found_in_order(case):
    name, options, wanted = CASES[case]
    found = branch_ends(capture(timm.create_model(name, **options).eval(), Example.of(IMAGE)))
    assert list(found.values()) == wanted
    assert all(BranchEnd.from_dict(one.to_dict()) == one for one in wanted)


class Block(nn.Module):
    """A branch of one linear layer, and variations that it must not be taken for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 8, 8), nn.GroupNorm(1, 8)
        self.mix, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.kind = kind

    def forward(self, x):
        x = self.stem(x)
        y = self.mix(self.norm(x))
        branch = self.last(y)
        if self.kind == "activated":
            branch = branch.relu()
        if self.kind == "read twice":
            return x + branch, branch
        if self.kind == "applied twice":
            branch = self.last(branch)
        if self.kind == "not read":
            return y * 0 + branch
        return x + branch


@pytest.mark.parametrize("kind", ["plain", "activated", "read twice", "applied twice"])
def test_only_a_layer_whose_output_is_added_as_it_is_ends_a_branch(kind):
    captured = capture(Block(kind).eval(), Example.of(IMAGE))
    wanted = [BranchEnd("last", "", "norm", NCHW)] if kind == "plain" else []
    assert list(branch_ends(captured).values()) == wanted


def test_the_end_behind_a_layer_is_the_first_that_depends_on_it():
    name, options, (attention, mlp) = CASES["vit"]
    captured = capture(timm.create_model(name, **options).eval(), Example.of(IMAGE))
    ends = branch_ends(captured)
    projection, second = ends
    assert end_behind(captured, "blocks.0.attn", projection, ends) == mlp
    assert end_behind(captured, "blocks.0.norm1", projection.all_input_nodes[0], ends) == attention
    assert end_behind(captured, "blocks.0.mlp", second, ends) is None
