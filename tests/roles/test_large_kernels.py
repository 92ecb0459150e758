"""Depthwise convolutions of 31x31, strips of 51x5, and branches in parallel."""

from __future__ import annotations

import pytest
import torch
from support.large_kernels import LargeKernelNet, Strips

import dcnify

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FEW = ["swaps.large.init.1.batches=2", "require=null"]


def test_branches_are_sites_of_their_own_and_the_plan_says_to_merge_them_first():
    model = LargeKernelNet()
    plan = dcnify.plan(model, dcnify.Recipe.load("large-kernel"), IMAGES[:1])
    assert [one.site.path for one in plan.swaps] == [f"blocks.{i}.mixer.large.0" for i in range(2)]
    assert {one.path for one in plan.skipped} == {f"blocks.{i}.mixer.small.0" for i in range(2)}
    assert any("LargeKernel.merge_kernel() reads weights" in note for note in plan.notes)


def test_a_layer_of_merged_branches_is_one_site_that_becomes_cheaper():
    model = LargeKernelNet()
    with torch.no_grad():
        before = model(IMAGES[:2])
        for block in model.blocks:
            block.mixer.merge_kernel()
        assert torch.allclose(model(IMAGES[:2]), before, atol=1e-5)
    result = dcnify.convert(model, dcnify.Recipe.load("large-kernel", FEW), IMAGES[:1], IMAGES)
    assert [one.site.path for one in result.plan.swaps] == [
        f"blocks.{i}.mixer.large" for i in range(2)
    ]
    was, now = result.report.parameters
    assert now < was
    site = result.plan.swaps[0].site
    assert site.flops > result.plan.swaps[0].flops > 0
    assert all(one.sqnr_db > 0 for one in result.report.sites)


def test_strips_are_selected_by_their_names():
    strips = ["swaps.large.select.where={}", 'swaps.large.select.modules=["**.LoRA1", "**.LoRA2"]']
    recipe = dcnify.Recipe.load("large-kernel", [*strips, *FEW])
    result = dcnify.convert(LargeKernelNet(Strips, 51), recipe, IMAGES[:1], IMAGES)
    kernels = [tuple(one.site.facts.kernel) for one in result.plan.swaps]
    assert kernels == [(51, 5), (5, 51)] * 2
    assert all(one.sqnr_db > 0 for one in result.report.sites)
    with pytest.raises(dcnify.InputError, match="found 51x5"):
        dcnify.plan(LargeKernelNet(Strips, 51), dcnify.Recipe.load("large-kernel"), IMAGES[:1])
