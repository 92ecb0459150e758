"""With the real surgery: open, convert, save, load, compare."""

import pytest
import torch
from support.artifact_standin import assert_same

import dcnify
from dcnify.artifact import load, open_source, save

CASES = {
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32]}),
    "vit": ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}),
}


@pytest.mark.parametrize("recipe", CASES)
@pytest.mark.parametrize("name", ["out", "out.pt"])
def test_a_converted_model_comes_back_bit_for_bit(tmp_path, recipe, name):
    arch, args = CASES[recipe]
    source = open_source(f"timm:{arch}", model_args={**args, "num_classes": 5})
    example = torch.randn(1, 3, 64, 64)
    result = dcnify.convert(source.model, dcnify.Recipe.load(recipe), example)
    assert result.plan.swaps
    loaded = load(save(result, tmp_path / name, source=source))
    assert_same(result.model, loaded)
    with torch.no_grad():
        assert torch.equal(result.model.eval()(example), loaded(example))
    reopened = open_source(tmp_path / name)
    assert reopened.plan == result.plan
    assert reopened.model.num_classes == 5
