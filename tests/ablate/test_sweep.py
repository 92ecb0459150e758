"""A sweep: its YAML, its points, and what is wrong with it in one line."""

from __future__ import annotations

import pytest

from dcnify.ablate.check import base_setting, check
from dcnify.ablate.points import expand, level_text, short_names
from dcnify.ablate.spec import AblateSpec
from dcnify.ablate.sweep import Sweep, sweeps
from dcnify.artifact import open_source
from dcnify.errors import InputError
from dcnify.sources.spec import SourceSpec

SOURCE = SourceSpec("python:support.models:tiny_convnext", input_size="32")
HEAD = "version: 1\nname: s\nrecipe: convnext\n"
KERNEL, GROUPS, INIT = (
    "swaps.dw7.replace.kernel_size",
    "swaps.dw7.replace.group_channels",
    "swaps.dw7.init",
)


def sweep(text):
    return Sweep.from_yaml(HEAD + text, "s.yaml")


def values(text):
    """The points of a sweep as tuples of values, and the base."""
    points, base = expand(sweep(text))
    return [tuple(one.values.values()) for one in points], tuple(base.values.values())


def test_all_combinations_are_tried_and_the_last_factor_changes_fastest():
    points, base = values(f"factors: {{{KERNEL}: [3, 5], {INIT}: [transfer, [fit, calibrate]]}}")
    assert points == [
        (3, "transfer"),
        (3, ["fit", "calibrate"]),
        (5, "transfer"),
        (5, ["fit", "calibrate"]),
    ]
    assert base == (3, "transfer")


def test_a_condition_drops_what_has_all_of_its_values():
    grid = f"factors: {{{KERNEL}: [3, 5, 7], {GROUPS}: [1, 8, 16]}}\n"
    points, _ = values(grid + f"drop: [{{{KERNEL}: [5, 7], {GROUPS}: [8, 16]}}]")
    assert points == [(3, 1), (3, 8), (3, 16), (5, 1), (7, 1)]


def test_points_are_tried_besides_the_combinations_each_once():
    points, _ = values(f"factors: {{{KERNEL}: [3, 5]}}\npoints: [{{{KERNEL}: 7}}, {{{KERNEL}: 3}}]")
    assert points == [(3,), (5,), (7,)]


def test_the_base_is_always_tried():
    text = f"factors: {{{KERNEL}: [3, 5], {GROUPS}: [8, 16]}}\nbase: {{{KERNEL}: 7}}"
    points, base = values(text)
    assert base == (7, 8)
    assert base in points
    assert len(points) == 5


def test_a_sample_is_always_the_same_part_of_the_combinations():
    text = f"factors: {{{KERNEL}: [3, 5, 7, 9], {GROUPS}: [1, 2, 4, 8, 16]}}\nsample: 6"
    points, base = values(text)
    assert points == values(text)[0]
    assert len({*points} - {base}) in (5, 6)
    whole = values(text.replace("sample: 6", ""))[0]
    drawn = points[:6]
    assert [one for one in whole if one in drawn] == drawn


def test_a_sample_is_drawn_from_more_combinations_than_could_be_listed():
    levels = list(range(1, 41))
    paths = [f"finetune.stages.recover.k{i}" for i in range(12)]
    grid = "".join(f"  {path}: {levels}\n" for path in paths)
    points, _ = expand(sweep(f"factors:\n{grid}sample: 20"))
    assert 20 <= len(points) <= 21


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"factors: {{{KERNEL}: []}}", "no values to try"),
        (f"factors: {{{KERNEL}: [3, 3]}}", "the same value twice"),
        (f"factors: {{{KERNEL}: 3}}", "expected a list of values"),
        (f"factor: {{{KERNEL}: [3]}}", "did you mean 'factors'?"),
        ("seeds: [0]", "nothing to try"),
        (f"factors: {{{KERNEL}: [3, 5]}}\nseeds: [0, 0]", "the same seed twice"),
        (f"factors: {{{KERNEL}: [3]}}\nmeasure: [fidelty]", "did you mean 'fidelity'?"),
        (f"factors: {{{KERNEL}: [3]}}\nbase: {{{KERNEL[:-1]}: 3}}", f"did you mean '{KERNEL}'?"),
        (f"factors: {{{KERNEL}: [3, 5]}}\ndrop: [{{{KERNEL}: 7}}]", "drops nothing"),
        (f"factors: {{{KERNEL}: [3, 5]}}\ndrop: [{{{KERNEL}: [3, 5]}}]", "no point to try"),
        (f"factors: {{{KERNEL}: [3, 5]}}\nsample: 3", "only 2 combinations"),
    ],
)
def test_a_mistake_is_one_line_with_its_place_and_the_nearest_fix(text, said):
    with pytest.raises(InputError) as caught:
        expand(sweep(text))
    line = str(caught.value)
    assert said in line
    assert line.startswith("s.yaml:")
    assert "\n" not in line


def test_a_name_that_files_cannot_have_is_refused_by_its_own_rule():
    text = f"version: 1\nname: a/b\nfactors: {{{KERNEL}: [3]}}"
    with pytest.raises(InputError, match=r"s\.yaml:2:7: name: .*digits, \., - and _, got 'a/b'"):
        Sweep.from_yaml(text, "s.yaml")


def test_short_names_tell_paths_apart():
    names = short_names([KERNEL, "finetune.stages.a.steps", "finetune.stages.b.steps"])
    assert list(names.values()) == ["kernel_size", "a.steps", "b.steps"]
    assert short_names(["swaps.0.init", "swaps.1.init"])["swaps.0.init"] == "swaps.0.init"


def test_values_read_as_their_author_wrote_them():
    assert level_text(["fit", {"method": "calibrate", "steps": 3}, True, None]) == (
        "[fit, {method: calibrate, steps: 3}, true, null]"
    )


MODELS = {
    "convnext": SOURCE,
    "vit": SourceSpec("timm:vit_tiny_patch16_224", model_arg=("depth=2",)),
    "mobilenet": SourceSpec("timm:tf_efficientnet_lite0", input_size="64"),
    "internimage-flash": SourceSpec(
        "timm:intern_image_t", input_size="64", model_arg=("depths=[1,1,1,1]",)
    ),
}
CHANGES = {"internimage-flash": ("swaps.dcn.replace.like=null",)}


@pytest.fixture(scope="module", params=list(MODELS))
def opened(request):
    return request.param, open_source(MODELS[request.param])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(sweeps()))
def test_a_sweep_that_ships_can_be_run(name, opened):
    recipe, source = opened
    found = Sweep.load(name)
    assert found.name == name
    if name == "cluttered-digits" and recipe != "convnext":
        pytest.skip("made for one model")
    spec = AblateSpec(sweep=name, source=MODELS[recipe], output="x")
    shared = {"run": spec.run_spec(), "source_sha256": None}
    setting = base_setting(found, shared, recipe, CHANGES.get(recipe, ()))
    checked = check(found, setting, source, lambda recipe: (None, None))
    assert len(checked.points) >= 2
    assert len(checked.trials) == len(checked.points) * len(found.seeds)


def test_the_sweep_of_the_digits_is_as_large_as_it_should_be():
    points, _ = expand(Sweep.load("cluttered-digits"))
    assert len(points) >= 24
    assert len(Sweep.load("cluttered-digits").seeds) == 2


def test_an_unknown_sweep_or_measurement_names_the_nearest():
    with pytest.raises(InputError, match="did you mean 'stages'"):
        Sweep.load("stagess")
    with pytest.raises(InputError, match="did you mean 'latency'"):
        Sweep.load("stages").measuring(["fidelity,latencyy"])
