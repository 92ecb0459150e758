"""Tensors that are not plain float weights are refused where they come in, by name."""

from __future__ import annotations

import pytest
import timm
import torch

from dcnify.artifact import open_source
from dcnify.errors import InputError

ARCH, WEIGHT = "test_convnext", "stem.0.weight"


def quantised(value):
    return torch.quantize_per_tensor(value, 0.01, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:.*quantize")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda value: (value * 127).round().to(torch.int8), "int8 where the model has float"),
        (lambda value: value > 0, "bool where the model has float"),
        (lambda value: value.to(torch.complex64), "complex64 where the model has float"),
        (quantised, "is quantised; convert the float original"),
        (lambda value: value.to_sparse(), "is sparse; save it dense"),
        (lambda value: value.to("meta"), "has no values"),
    ],
)
def test_it_is_named_in_one_line(tmp_path, change, said):
    state = timm.create_model(ARCH).state_dict()
    state[WEIGHT] = change(state[WEIGHT])
    torch.save(state, tmp_path / "odd.pt")
    with pytest.raises(InputError) as caught:
        open_source(tmp_path / "odd.pt", arch=ARCH)
    assert f"odd.pt: {WEIGHT} " in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_integers_that_are_meant_stay_integers(tmp_path):
    model = timm.create_model("test_resnet").eval()
    torch.save(model.state_dict(), tmp_path / "last.pt")
    opened = open_source(tmp_path / "last.pt", arch="test_resnet").model.state_dict()
    assert {k: v.dtype for k, v in opened.items()} == {
        k: v.dtype for k, v in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("head.fc.SCB", "bitsandbytes quantised"),
        ("head.fc.weight.quant_state.bitsandbytes__nf4", "bitsandbytes quantised"),
        ("head.fc.qweight", "GPTQ or AWQ quantised"),
        ("head.fc.weight:tensor_impl:int_data", "torchao quantised"),
        ("head.fc.weight_packed", "compressed-tensors quantised"),
        ("head.fc.weight_scale", "stores scales beside them quantised"),
        ("stem.0.activation_post_process.scale", "prepared for quantisation"),
        ("stem.0.weight_mask", "stem.0 is pruned"),
        ("stem.0.parametrizations.weight.original0", "stem.0 is parametrised"),
    ],
)
def test_quantised_and_rewritten_layers_are_known_by_their_names(tmp_path, name, said):
    state = timm.create_model(ARCH).state_dict()
    torch.save({**state, name: torch.ones(3)}, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=said) as caught:
        open_source(tmp_path / "odd.pt", arch=ARCH)
    assert name.rpartition(".")[0].split(".parametrizations")[0] in str(caught.value)


@pytest.mark.filterwarnings("ignore")
def test_quantize_dynamic_is_named(tmp_path):
    quantised = torch.ao.quantization.quantize_dynamic(timm.create_model(ARCH), {torch.nn.Linear})
    torch.save(quantised.state_dict(), tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"quantize_dynamic\) quantised; convert the float"):
        open_source(tmp_path / "odd.pt", arch=ARCH)
