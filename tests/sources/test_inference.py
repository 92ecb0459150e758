"""The architecture of a file that names none: found, or asked for, never guessed."""

import pytest
import timm
import torch

from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.sources.construct import on_meta
from dcnify.sources.identify.search import identify
from dcnify.sources.state_dict import shapes_of


def shapes(name, **args):
    return shapes_of(on_meta(lambda: timm.create_model(name, **args)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("convnext_tiny", {"num_classes": 10}),
        ("swin_tiny_patch4_window7_224", {}),
        ("maxvit_tiny_tf_224", {"num_classes": 2, "in_chans": 1}),
    ],
)
def test_the_only_architecture_that_fits_is_found(name, args):
    found = identify(shapes(name, **args), {}, "m.pth")
    assert found.candidate.name == name
    assert found.candidate.args == args
    assert found.examined > 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("resnet50", ["resnet50", "resnetaa50", "resnetblur50"]),
        ("vit_base_patch16_224", ["deit_base_patch16_224", "vit_base_patch16_224"]),
        ("mobilenetv3_large_100", ["mobilenetv3_large_100", "tf_mobilenetv3_large_100"]),
    ],
)
def test_several_that_fit_are_listed_and_not_guessed(name, others):
    listed = f"fits {len(others)} timm architectures.*: {', '.join(others)}; say which with --arch"
    with pytest.raises(InputError, match=listed):
        identify(shapes(name), {}, "m.pth")


@pytest.mark.slow
def test_a_model_at_its_own_size_hides_those_that_would_have_to_be_resized():
    with pytest.raises(
        InputError, match=r"fits 2 .*: deit_base_patch16_384, vit_base_patch16_384;"
    ):
        identify(shapes("vit_base_patch16_384"), {}, "m.pth")


@pytest.mark.slow
def test_another_image_size_is_found_when_nothing_else_fits():
    found = identify(shapes("vit_small_patch14_dinov2", img_size=280), {}, "m.pth")
    assert found.candidate.name == "vit_small_patch14_dinov2"
    assert found.candidate.args["img_size"] == 280


@pytest.mark.slow
def test_sizes_of_one_s_own_name_the_nearest_and_the_option():
    own = shapes("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
    with pytest.raises(InputError, match=r"the nearest is .*convnext.*--model-arg depths=\[\.\.\]"):
        identify(own, {}, "m.pth")


def test_known_arguments_take_part():
    own = shapes("convnext_atto", depths=(1, 1, 1, 1))
    found = identify(own, {"depths": [1, 1, 1, 1]}, "m.pth")
    assert found.candidate.name == "convnext_atto"


def test_weights_of_no_vision_model_say_so():
    other = {f"wte.rnn_{i}.gru_cell.weight_hh": (768,) for i in range(12)}
    with pytest.raises(InputError, match=r"no timm architecture"):
        identify(other, {}, "m.pth")


@pytest.mark.slow
def test_progress_is_reported():
    seen = []
    identify(shapes("test_convnext2"), {}, "m.pth", lambda *step: seen.append(step))
    assert all(done < total for _, done, total in seen)
    assert any("test_convnext2" in phase for phase, _, _ in seen)


@pytest.mark.slow
def test_an_inferred_source_says_what_was_inferred(tmp_path):
    model = timm.create_model("test_convnext2", num_classes=3).eval()
    torch.save(model.state_dict(), tmp_path / "m.pth")
    source = open_source(tmp_path / "m.pth")
    assert source.notes[0].startswith("inferred test_convnext2, the only one of")
    assert source.notes[1] == "read from the shapes: num_classes=3"
