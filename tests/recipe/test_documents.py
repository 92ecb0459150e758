"""What a recipe file may not be: not YAML, not a mapping, doubled, aliased, tagged, endless."""

from __future__ import annotations

from itertools import pairwise

import pytest

from dcnify.errors import InputError
from dcnify.recipe import Recipe
from dcnify.recipe.reading.document import MAX_BYTES, read_document


def error_of(text: str) -> str:
    with pytest.raises(InputError) as caught:
        Recipe.from_yaml(text, "recipe.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1:1: empty; the file starts with 'version: 1'"),
        ("# only a comment\n", "1:1: empty; the file starts with 'version: 1'"),
        ("- version: 1\n", "1:1: expected a mapping of keys, the first of them 'version: 1'"),
        ("just words", "1:1: expected a mapping of keys, the first of them 'version: 1'"),
        ("version: 1\n\tname: x\n", "2:1: a tab, where YAML allows only spaces"),
        (
            "version: 1\nname: x\nversion: 1\n",
            "3:1: duplicate key 'version', first given in line 1",
        ),
        ("a: {b: 1, b: 2}\n", "1:11: duplicate key 'b', first given in line 1"),
        ("a: &x 1\nb: *x\n", "2:4: alias '*x' is not supported: write the value out"),
        ("a:\n  <<: {b: 1}\n", "2:3: merge keys ('<<') are not supported: write the keys out"),
        ("[a, b]: 1\n", "1:1: a key must be a single word"),
        ("name: !!python/name:os.system ''\n", "1:7: tag '!!python/name:os.system' is not allowed"),
        ("name: !mine x\n", "1:7: tag '!mine' is not allowed in a recipe"),
        ("name: !!binary aGk=\n", "1:7: tag '!!binary' is not allowed in a recipe"),
        ("name: !!int x\n", "1:7: 'x' is not of type int"),
        ("name: a\0b\n", "1:8: character #x0000 is not allowed in YAML"),
        ('name: "\\ud800"\n', "1:7: contains half of a surrogate pair, which is no character"),
        (f"a: {'9' * 5000}\n", "1:4: a number this long is not supported"),
        (f"a: {'[' * 50}\n", "1:35: nested more than 32 levels deep"),
        ("a: 1\n---\nb: 1\n", "2:1: not valid YAML: but found another document"),
        ("a: b: c\n", "1:5: not valid YAML: mapping values are not allowed here"),
        ("a: [1\nb: 2\n", "2:2: not valid YAML: expected ',' or ']', but got ':'"),
    ],
)
def test_what_is_no_recipe_file_says_where_and_why(text, message):
    assert error_of(text).startswith(f"recipe.yaml:{message}")


def test_aliases_that_would_grow_to_billions_are_refused_at_the_first():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi")]
    assert error_of("\n".join(lines)).startswith("recipe.yaml:2:8: alias '*a' is not supported")


def test_text_larger_than_any_recipe_is_refused_unread():
    assert error_of("#" * (MAX_BYTES + 1)) == "recipe.yaml: larger than 1 MiB, which no recipe is"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("on", "on"),
        ("no", "no"),
        ("010", 10),
        ("1e-5", 1e-5),
        ("12:30", "12:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x1f", 31),
        ("-.inf", float("-inf")),
        ("~", None),
        ("'true'", "true"),
        ("!!str 5", "5"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(written, meant):
    data, _ = read_document(f"a: {written}\n", "recipe.yaml")
    assert data == {"a": meant}
    assert type(data["a"]) is type(meant)
