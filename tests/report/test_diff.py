"""What differs: nested data by path, layers of a plan, tensors by name."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.shown_artifact import shown_artifact

from dcnify.errors import InputError
from dcnify.report.diff import Change, compare, difference_page
from dcnify.report.diff.difference import changes
from dcnify.report.diff.weights import OTHERS
from dcnify.report.render import html, markdown

__all__ = ["shown_artifact"]


def found(a, b):
    return {change.what: (change.a, change.b) for change in changes(a, b)}


def test_nested_values_go_by_path():
    assert found({"a": {"b": 1, "c": [1, 2]}}, {"a": {"b": 1, "c": [1, 3]}}) == {
        "a.c": ([1, 2], [1, 3])
    }


def test_what_one_side_alone_has_is_one_change():
    assert found({"a": 1}, {"a": 1, "b": {"c": 2, "d": 3}}) == {"b": (None, {"c": 2, "d": 3})}


def test_entries_with_names_are_not_shifted_by_one_that_is_added():
    late, early = {"name": "late", "size": 3}, {"name": "early", "size": 5}
    assert found({"swaps": [late]}, {"swaps": [early, {**late, "size": 7}]}) == {
        "swaps.late.size": (3, 7),
        "swaps.early": (None, early),
    }


def test_entries_without_a_common_name_go_by_place():
    assert found([{"name": "x", "size": 3}], [{"name": "y", "size": 3}]) == {"0.name": ("x", "y")}


@pytest.fixture(scope="module")
def other(shown_artifact, tmp_path_factory):
    """A copy of the artifact in which a plan, a report and some tensors were changed."""
    path = tmp_path_factory.mktemp("other") / "out"
    shutil.copytree(shown_artifact, path)
    plan = json.loads((path / "plan.json").read_text())
    first, second, last = plan["swaps"][0], plan["swaps"][1], plan["swaps"].pop()
    for swap in (first, second):
        swap["module"]["args"]["offset_scale"] = 0.5
    why = {"path": last["site"]["path"], "role": "depthwise_conv", "reason": "too large"}
    plan["skipped"].append(why)
    (path / "plan.json").write_text(json.dumps(plan))
    report = json.loads((path / "report.json").read_text())
    report["output"]["cosine"] -= 0.25
    report["versions"]["timm"] = "0.0.1"
    (path / "report.json").write_text(json.dumps(report))
    weights = load_file(path / "model.safetensors")
    moved = f"{first['site']['path']}.dcn.value_proj.weight"
    for name in [name for name in weights if name.startswith(first["site"]["path"])]:
        weights[name] = 2 * weights[name] if weights[name].ndim else weights[name]
    assert moved in weights
    del weights[f"{second['site']['path']}.dcn.value_proj.weight"]
    save_file(weights, path / "model.safetensors")
    return path


@pytest.fixture(scope="module")
def difference(shown_artifact, other):
    return compare(str(shown_artifact), str(other))


def test_an_artifact_differs_from_itself_in_nothing(shown_artifact):
    itself = compare(str(shown_artifact), str(shown_artifact))
    assert itself.same
    assert sum(one.tensors for one in itself.weights) == len(
        load_file(shown_artifact / "model.safetensors")
    )
    assert difference_page(itself).title == "The same artifact"


def test_the_same_change_of_several_layers_is_one(difference):
    scale = next(one for one in difference.changes["plan"] if one.what == "offset_scale")
    assert (scale.a, scale.b) == (1.0, 0.5)
    assert len(scale.layers) == 2


def test_a_layer_that_one_side_keeps_says_why(difference):
    (becomes,) = (one for one in difference.changes["plan"] if one.what == "becomes")
    assert becomes.a.startswith("DCNv4 3x3")
    assert becomes.b == "kept: too large"


def test_fidelity_and_versions_are_compared(difference):
    cosine = next(one for one in difference.changes["fidelity"] if one.what == "cosine")
    assert cosine.a - cosine.b == pytest.approx(0.25)
    assert [(one.what, one.b) for one in difference.changes["origin"]] == [
        ("versions.timm", "0.0.1")
    ]
    assert difference.changes["recipe"] == ()


def test_weights_are_apart_by_the_norm_of_their_difference(difference):
    first, second, *rest = difference.weights
    assert first.distance == pytest.approx(1.0)  # twice as large
    assert first.changed > 0
    assert (second.changed, second.unmatched, second.distance) == (0, 1, 0.0)
    assert all(one.same for one in rest)
    assert rest[-1].layer == OTHERS


def test_a_page_says_it_in_every_form(difference):
    page = difference_page(difference)
    for text in (markdown(page), html(page)):
        for words in ("offset_scale", "kept: too large", "0.0.1", "apart"):
            assert words in text


def test_an_artifact_in_one_file_is_compared_too(shown_artifact, tmp_path):
    from dcnify.artifact.layout import FILE_FORMAT

    config = json.loads((shown_artifact / "config.json").read_text())
    texts = {n: (shown_artifact / f"{n}.{e}").read_text() for n, e in
             (("plan", "json"), ("recipe", "yaml"), ("report", "json"))}  # fmt: skip
    weights = load_file(shown_artifact / "model.safetensors")
    held = {"format": FILE_FORMAT, "config": config, "state_dict": weights, **texts}
    torch.save(held, tmp_path / "one.pt")
    assert compare(str(shown_artifact), str(tmp_path / "one.pt")).same


def test_a_report_that_was_edited_into_nonsense_is_one_line(shown_artifact, tmp_path):
    shutil.copytree(shown_artifact, tmp_path / "odd")
    path = tmp_path / "odd" / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"finetune": 3}))
    with pytest.raises(InputError, match="is damaged"):
        compare(str(shown_artifact), str(tmp_path / "odd"))


def test_recipes_are_compared_as_they_resolve(tmp_path):
    from dcnify.recipe import source_text

    (tmp_path / "my.yaml").write_text(
        source_text("convnext")[0].replace("group_channels: 16", "group_channels: 8")
    )
    (one,) = compare("convnext", str(tmp_path / "my.yaml")).changes["recipe"]
    assert one == Change("swaps.dw7.replace.group_channels", 16, 8)
