"""The operator is compared with the reference in every configuration that a model has."""

import pytest
import timm
from torch import nn

from dcnify.nn import DCNv3, DCNv4
from dcnify.ops import backends
from dcnify.verify.operator import check_operator, configs_of

LAYERS = {
    "plain": lambda: DCNv4(16),
    "strided": lambda: DCNv4(16, kernel_size=5, stride=2, padding=2, groups=2),
    "dilated": lambda: DCNv4(24, kernel_size=(3, 5), padding=(2, 4), dilation=2, groups=3),
    "softmax": lambda: DCNv4(16, softmax=True, remove_center=True, offset_scale=2.0),
    "even kernel": lambda: DCNv4(16, kernel_size=(2, 4), padding=0, groups=16),
    "one point": lambda: DCNv4(8, kernel_size=1, padding=0, groups=1),
    "no scale": lambda: DCNv4(8, offset_scale=0.0),
    "many points": lambda: DCNv4(8, kernel_size=31, padding=15, groups=1),
    "wide padding": lambda: DCNv4(8, padding=9, groups=8),
    "dcnv3": lambda: DCNv3(16, groups=4, offset_scale=0.5, stride=2),
    "bfloat16": lambda: DCNv4(16).bfloat16(),
    "float16": lambda: DCNv4(16).half(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_operator_agrees_with_the_reference_in_every_configuration(name):
    checks = check_operator(nn.Sequential(LAYERS[name]()))
    assert [check.name for check in checks] == ["operator", "operator's gradients"]
    assert all(check.passed for check in checks), checks


def test_each_configuration_is_checked_once():
    model = nn.Sequential(DCNv4(16), DCNv4(16), DCNv4(16, groups=2), DCNv3(16))
    assert len(configs_of(model)) == 3


def test_a_model_without_the_operator_is_said_to_have_none():
    (check,) = check_operator(timm.create_model("test_resnet"))
    assert check.passed is None


@pytest.mark.parametrize("fault", ["forward", "backward", "crash"])
def test_an_operator_that_is_wrong_here_is_found(monkeypatch, fault):
    right = backends.TORCH

    def forward(value, points, sampling):
        if fault == "crash":
            raise RuntimeError("no kernel image is available")
        return right.forward(value, points, sampling) * (1.01 if fault == "forward" else 1)

    def backward(*args):
        return right.backward(*args) * (1.01 if fault == "backward" else 1)

    broken = backends.Implementation(forward, backward)
    monkeypatch.setattr(backends, "implementation_for", lambda *args: broken)
    failed = {c.name: c.detail for c in check_operator(nn.Sequential(DCNv4(16))) if not c.passed}
    if fault == "crash":
        assert "no kernel image" in failed["operator"]
    else:
        assert set(failed) == {"operator" if fault == "forward" else "operator's gradients"}
