"""With the source at hand, an artifact's fidelity is measured again and held to its report."""

import dataclasses
import hashlib
import json
import math
import shutil

import pytest
import timm
import torch
from support import decided

import dcnify
from dcnify.artifact import open_source, read_artifact, save, verify
from dcnify.artifact.load import load_record
from dcnify.data import ImageBatch
from dcnify.errors import InputError
from dcnify.verify.fidelity import check_recipe

ARGS = {"depths": [1, 1, 1, 1], "dims": [16, 16, 32, 32], "ls_init_value": 1.0}
SITE = "stages.0.blocks.0.conv_dw"
REPORTED = ("reported fidelity by site", "reported fidelity of the output")


def opened(path, **args):
    return open_source(path, arch="convnext_atto", model_args={**ARGS, **args})


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint and its conversion, which requires next to nothing."""
    place = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    torch.save(timm.create_model("convnext_atto", num_classes=5, **ARGS).state_dict(), place / "m")
    recipe = dcnify.Recipe.load("convnext", ["swaps.dw7.require={sqnr_db: -50}"])
    source = opened(place / "m")
    save(
        dcnify.convert(source.model, recipe, torch.randn(1, 3, 64, 64)),
        place / "out",
        source=source,
    )
    return place


@pytest.fixture
def out(made, tmp_path):
    return shutil.copytree(made / "out", tmp_path / "out")


def against(out, source, **options):
    return verify(read_artifact(out), against=source, **options)


def verdicts(done):
    return {check.name: check.passed for check in done.checks}


def rewrite(out, name, change):
    """Edit one part, and its hash with it."""
    text = change((out / name).read_text())
    (out / name).write_text(text)
    config = json.loads((out / "config.json").read_text())
    config["dcnify"]["files"][name] = hashlib.sha256(text.encode()).hexdigest()
    (out / "config.json").write_text(json.dumps(config))


def edit(out, name, change):
    def changed(text):
        data = json.loads(text)
        change(data)
        return json.dumps(data)

    rewrite(out, name, changed)


def test_the_right_source_gives_the_numbers_of_the_report(made, out):
    done = against(out, opened(made / "m"))
    assert not done.failed
    assert not done.warnings
    assert all(verdicts(done)[name] for name in (*REPORTED, "require"))
    reported = {site["path"]: site["sqnr_db"] for site in done.report["sites"]}
    measured = {site.path: site.sqnr_db for site in done.fidelity.sites}
    assert measured == pytest.approx(reported, abs=1e-3)
    assert done.fidelity.output.cosine == pytest.approx(done.report["output"]["cosine"])


@pytest.mark.slow
def test_a_calibrated_artifact_is_measured_on_the_images_it_was_not_calibrated_on(made, tmp_path):
    source = opened(made / "m")
    steps = "swaps.dw7.init=[transfer, {method: calibrate, batches: 2, steps: 2}]"
    recipe = dcnify.Recipe.load("convnext", [steps])
    result = dcnify.convert(source.model, recipe, torch.randn(1, 3, 32, 32))
    assert result.report.images["calibrated_on"]
    save(result, tmp_path / "out", source=source)
    done = against(tmp_path / "out", opened(made / "m"))
    assert [verdicts(done)[name] for name in REPORTED] == [True, True]
    assert done.fidelity.images["count"] == result.report.images["count"]


@pytest.mark.parametrize("number", [20.0, "much", True, None])
def test_a_reported_number_that_is_not_so_fails(made, out, number):
    edit(out, "report.json", lambda report: report["sites"][1].update(sqnr_db=number))
    edit(out, "report.json", lambda report: report["output"].update(sqnr_db=number))
    done = against(out, opened(made / "m"))
    assert [check.name for check in done.failed] == list(REPORTED)
    assert "stages.1.blocks.0.conv_dw" in done.failed[0].detail


@pytest.mark.parametrize("report", ["[]", "{}", '{"sites": 3, "output": [], "images": "none"}'])
def test_a_report_without_numbers_leaves_nothing_to_compare(made, out, report):
    rewrite(out, "report.json", lambda text: report)
    done = against(out, opened(made / "m"))
    assert [verdicts(done)[name] for name in REPORTED] == [None, None]
    assert len(done.fidelity.sites) == 4


def test_other_weights_are_a_warning_and_no_verdict_on_the_report(out, tmp_path):
    torch.manual_seed(1)
    other = timm.create_model("convnext_atto", num_classes=5, **ARGS)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    done = against(out, opened(tmp_path / "other.pt"))
    assert not done.failed
    assert "is not the source that was converted" in done.warnings[0]
    assert [verdicts(done)[name] for name in REPORTED] == [None, None]


def test_other_images_are_measured_without_a_verdict_on_the_report(made, out):
    from dcnify.data import load_images

    how = {"count": 3, "size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3}
    done = against(out, opened(made / "m"), images=load_images(None, **how))
    assert done.fidelity.images["count"] == 3
    assert [verdicts(done)[name] for name in REPORTED] == [None, None]
    assert verdicts(done)["require"] is True


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("timm:convnext_femto", {}, "made from timm:convnext_atto, not from timm:convnext_femto"),
        ("timm:convnext_atto", {**ARGS, "dims": [16, 16, 32, 64], "num_classes": 5}, "stages.3"),
        ("timm:convnext_atto", {**ARGS, "num_classes": 7}, "head.fc"),
        ("timm:convnext_atto", {**ARGS, "kernel_sizes": 5, "num_classes": 5}, SITE),
    ],
)
def test_a_source_of_another_architecture_is_refused_in_one_line(out, name, args, words):
    with pytest.raises(InputError, match=words) as error:
        against(out, open_source(name, model_args=args))
    assert str(out) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_artifact_itself_is_no_source_of_it(out):
    with pytest.raises(InputError, match="already: give the model that it was converted from"):
        against(out, open_source(out))


@pytest.mark.slow
def test_of_a_second_conversion_only_the_new_layers_are_compared_with_the_first(made, tmp_path):
    late = dcnify.Recipe.load("convnext-late")
    first = opened(made / "m")
    save(dcnify.convert(first.model, late, torch.randn(1, 3, 64, 64)), tmp_path / "1", source=first)
    second = open_source(tmp_path / "1")
    result = dcnify.convert(second.model, dcnify.Recipe.load("convnext"), torch.randn(1, 3, 64, 64))
    save(result, tmp_path / "2", source=second)
    done = against(tmp_path / "2", open_source(tmp_path / "1"))
    assert not done.failed
    assert [site.path.split(".")[1] for site in done.fidelity.sites] == ["0", "1"]
    assert len(against(tmp_path / "2", opened(made / "m")).fidelity.sites) == 4


@pytest.mark.parametrize("on_violation", ["fail", "revert", "warn"])
def test_what_the_recipe_requires_of_a_layer_is_checked_again(made, out, on_violation):
    require = {"sqnr_db": 60.0, "on_violation": on_violation}
    edit(out, "plan.json", lambda plan: plan["swaps"][0].update(require=require))
    done = against(out, opened(made / "m"))
    if on_violation == "warn":
        assert not done.failed
        (line,) = done.warnings
        assert line.startswith(f"{SITE}: SQNR ")
        assert line.endswith("below 60 dB")
    else:
        (check,) = done.failed
        assert check.name == "require"
        assert check.limit == 60
        assert check.value < 60
        assert SITE in check.detail


def test_weights_that_do_not_load_leave_the_fidelity_unknown(made, out):
    (out / "model.safetensors").write_bytes(b"")
    assert verdicts(against(out, opened(made / "m")))["fidelity"] is None


@pytest.mark.parametrize("shape", [[1, 3, 10**6, 10**6], [3, 64], [1, 3, "64", 64], [1, 3, 0, 64]])
def test_an_absurd_input_is_refused_before_memory_is_asked_for(made, out, shape):
    edit(out, "plan.json", lambda plan: plan.update(input_shape=shape))
    with pytest.raises(InputError, match="is not an image shape"):
        against(out, opened(made / "m"))


@pytest.mark.parametrize("images", [{"count": 10**9}, {"count": "8"}, {"count": 0}, {"count": -1}])
def test_an_absurd_number_of_images_is_not_believed(made, out, images):
    edit(out, "report.json", lambda report: report["images"].update(images))
    done = against(out, opened(made / "m"))
    assert done.fidelity.images["count"] < 10
    assert [verdicts(done)[name] for name in REPORTED] == [None, None]


INTERN = {"channels": 16, "groups": [1, 2, 4, 8], "depths": [1, 1, 1, 1], "num_classes": 4}


@pytest.fixture
def intern(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("intern_image_t", **INTERN)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    torch.save(model.state_dict(), tmp_path / "intern.pt")
    return lambda: open_source(tmp_path / "intern.pt", arch="intern_image_t", model_args=INTERN)


def saved_as(name, source, place, *overrides):
    recipe = dcnify.Recipe.load(name, overrides)
    result = dcnify.convert(source.model, recipe, torch.randn(1, 3, 64, 64))
    return save(result, place, source=source)


@pytest.mark.slow
def test_what_the_recipe_certifies_is_checked_again(intern, tmp_path):
    out = saved_as("internimage-exact", intern(), tmp_path / "out")
    done = against(out, intern())
    assert not done.failed
    assert verdicts(done)["certify"] is True
    rewrite(out, "recipe.yaml", lambda text: text.replace("1.0e-05", "1.0e-20"))
    record = read_artifact(out)
    # On some processors both models give the same bits.
    output = dataclasses.replace(done.fidelity.output, relative_error=1e-9)
    fidelity = dataclasses.replace(done.fidelity, output=output)
    (check,) = (
        one
        for one in check_recipe(record, load_record(record)[0], fidelity, record.plan.swaps)[0]
        if one.passed is False
    )
    assert check.name == "certify"
    assert check.value == 1e-9 > check.limit == 1e-20
    rewrite(out, "recipe.yaml", lambda text: text.replace("version: 1", "version: 9"))
    (check,) = against(out, intern()).failed
    assert check.name == "certify"
    assert "recipe.yaml" in check.detail


def test_a_conversion_to_another_architecture_is_compared_with_the_one_it_came_from(
    intern, tmp_path
):
    out = saved_as("internimage-flash", intern(), tmp_path / "out", "swaps.dcn.init=transfer")
    assert read_artifact(out).base.name == "flash_intern_image_t"
    done = against(out, intern())
    assert not done.failed
    assert all(verdicts(done)[name] for name in REPORTED)


def test_a_site_that_lost_nothing_is_as_reported_where_json_has_no_infinity(tmp_path):
    torch.manual_seed(0)
    torch.save(
        timm.create_model("convnext_atto", num_classes=5, **ARGS).state_dict(), tmp_path / "m"
    )
    source = opened(tmp_path / "m")
    never = "swaps.dw7.require={sqnr_db: 90, on_violation: revert}"
    recipe = dcnify.Recipe.load("convnext", [never])
    result = dcnify.convert(source.model, recipe, torch.randn(1, 3, 64, 64))
    assert result.report.output.sqnr_db == math.inf
    save(result, tmp_path / "out", source=source)
    done = against(tmp_path / "out", opened(tmp_path / "m"))
    assert not done.failed
    assert verdicts(done)["reported fidelity of the output"] is True
    assert done.fidelity.sites == ()


def test_what_is_required_of_the_output_is_checked_again(tmp_path):
    spec = "python:support.decided:decided"
    source = open_source(spec)
    recipe = decided.recipe("{agreement: 0.125}")
    result = dcnify.convert(source.model, recipe, decided.images(1), decided.images())
    save(result, tmp_path / "out", source=source)
    images = ImageBatch(decided.images(), (), (), "given")

    def required() -> bool | None:
        done = against(tmp_path / "out", open_source(spec), images=images, trust_code=True)
        return verdicts(done)["require of the output"]

    assert required() is True
    rewrite(tmp_path / "out", "recipe.yaml", lambda text: text.replace("0.125", "0.99"))
    assert required() is False
