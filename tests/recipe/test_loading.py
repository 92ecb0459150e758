"""`Recipe.load` finds built-ins by name and files by path, and says so when there is neither."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe, builtin, builtins


def error_of(name: object) -> str:
    with pytest.raises(InputError) as caught:
        Recipe.load(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", list(builtins()))
def test_every_builtin_loads_under_its_own_name_and_begins_with_a_summary(name):
    found = builtins()[name]
    assert Recipe.load(name).name == name
    assert found.summary.endswith(".")
    assert found.text.startswith(f"# {found.summary}\n")


def test_the_builtins_select_what_they_are_named_for():
    late = Recipe.load("convnext-late").swaps[0]
    assert (late.select.role, late.select.stages) == ("depthwise_conv", (2, 3))
    assert late.select.where.kernel == (7, 7)
    assert Recipe.load("vit").swaps[0].replace.prefix == "attend"
    mobile = Recipe.load("mobilenet").swaps[0]
    assert (mobile.select.where.kernel.min, mobile.select.where.kernel.max) == (3, 5)
    assert mobile.replace.pointwise is False


def test_an_unknown_name_lists_the_nearest_and_all_builtins():
    assert error_of("convnxt") == (
        "no recipe 'convnxt', did you mean 'convnext'? Built in: convnext, convnext-calibrated, "
        "convnext-late, internimage-exact, internimage-flash, large-kernel, mobilenet, "
        "mobilenet-calibrated, swin, swin-calibrated, unet, vit, vit-calibrated; a file needs its "
        "path, such as ./convnxt.yaml"
    )
    with pytest.raises(InputError, match=r"no built-in recipe 'zzz'\. Built in: convnext,"):
        builtin("zzz")


def test_a_builtin_name_is_not_captured_by_a_file_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("vit").write_text("nonsense")
    assert Recipe.load("vit").name == "vit"
    assert error_of("./vit").startswith("./vit:1:1: expected a mapping")
    assert error_of(Path("vit")).startswith("vit:1:1: expected a mapping")


def test_a_file_without_suffix_loads_by_its_bare_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(builtin("vit").text)
    assert Recipe.load("mine").name == "vit"


def test_a_missing_file_names_the_nearest_beside_it_or_the_builtin(tmp_path):
    (tmp_path / "convert.yaml").write_text("")
    assert error_of(tmp_path / "covert.yaml") == (
        f"{tmp_path}/covert.yaml: no such file, did you mean '{tmp_path}/convert.yaml'?"
    )
    assert error_of(tmp_path / "x" / "vit.yaml") == (
        f"{tmp_path}/x/vit.yaml: no such file, did you mean the built-in 'vit'?"
    )
    assert error_of(tmp_path / "qqq.yml") == f"{tmp_path}/qqq.yml: no such file"


def test_folders_binaries_and_unreadable_files_are_named(tmp_path):
    assert error_of(tmp_path) == f"{tmp_path}: a folder; expected a YAML file"
    binary = tmp_path / "model.pt.yaml"
    binary.write_bytes(b"version: 1\nname: \xff\xfe\x00")
    assert error_of(binary) == f"{binary}:2:7: not UTF-8 text; a recipe is a YAML file"
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * ((1 << 20) + 1))
    assert error_of(large) == f"{large}: larger than 1 MiB, which no recipe is"
    assert error_of("a\0b.yaml").startswith("'a\\x00b.yaml': cannot be read: ")
    if os.geteuid():
        large.chmod(0)
        assert error_of(large) == f"{str(large)!r}: cannot be read: permission denied"


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path):
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + builtin("vit").text.replace("\n", "\r\n").encode())
    assert Recipe.load(file) == Recipe.load("vit")


def test_errors_in_a_file_begin_with_the_path_as_it_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("version: 1\nnme: x\n")
    assert error_of("my.yaml").startswith("my.yaml:2:1: unknown key 'nme', did you mean 'name'?")
    assert error_of("./my.yaml").startswith("./my.yaml:2:1: ")


def test_a_recipe_cannot_be_changed_after_loading():
    recipe = Recipe.load("vit")
    with pytest.raises(ValueError, match="frozen"):
        recipe.swaps[0].replace.kernel_size = (5, 5)
    assert hash(recipe) == hash(Recipe.load("vit"))


def test_a_recipe_of_ten_thousand_swaps_is_refused():
    swap = "  - {name: s%d, select: {role: depthwise_conv}, replace: {with: dcnv4}}\n"
    text = "version: 1\nname: many\nswaps:\n" + "".join(swap % number for number in range(1001))
    with pytest.raises(InputError, match=r"swaps: expected at most 1,000 entries, got 1,001"):
        Recipe.from_yaml(text)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are a Unix thing")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "r.yaml")
    with pytest.raises(InputError, match=r"r.yaml: not a regular file; expected a YAML file"):
        Recipe.load(tmp_path / "r.yaml")
