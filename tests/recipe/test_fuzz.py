"""Whatever a recipe file holds, reading it gives a recipe or an `InputError` of one line."""

from __future__ import annotations

import copy

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dcnify.errors import InputError
from dcnify.recipe import Recipe, builtins

TRAINED = Recipe.load("vit", ["finetune=[align, {use: recover, handover: {until: 0.5}}]"])
TEXTS = [*(recipe.text for recipe in builtins().values()), TRAINED.to_yaml()]
PLAIN = [yaml.safe_load(text) for text in TEXTS]
BITS = [
    *("\t", "\n", " ", ":", "- ", "[", "]", "{", "}", "'", '"', "#", "&a ", "*a", "!", "!!int "),
    *("|", ">", "%", "@", "`", "\0", "\ufeff", "<<: ", "? ", "---", "\\", "null", "true", "-1"),
    *("1e999", "9" * 400, "\U0001f600", "re:(", "**", '"\\ud800"', '"\\UFFFFFFFF"', "\x85"),
]
KEYS = ["name", "min", "max", "with", "role", "kernel", "method", "prefix", "0", "", "é"]
KEYS += ["finetune", "stages", "use", "steps", "epochs", "augment", "options", "lr", "train"]
STEPS = ["swaps", "late", "0", "replace", "init", "select", "where", "name", "x", ""]
STEPS += ["finetune", "stages", "align", "optimizer", "options", "augment", "steps", "epochs"]

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars | st.sampled_from(["attention", "transfer", "re:[", "a.**", "align", "@head"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=8,
)


def reads_or_refuses(text: str, overrides: tuple[str, ...] = ()) -> None:
    refusal = None
    try:
        recipe = Recipe.from_yaml(text, "fuzz.yaml", overrides)
    except InputError as error:
        refusal = str(error)
    if refusal is None:
        assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    else:
        assert refusal.startswith(("fuzz.yaml:", "--set "))
        assert len(refusal.splitlines()) == 1


@pytest.mark.slow
@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.data())
def test_random_edits_of_the_text_never_escape(data):
    text = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        removed = data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(st.sampled_from(BITS)) + text[start + removed :]
    reads_or_refuses(text)


@pytest.mark.slow
@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.data())
def test_random_values_in_random_places_never_escape(data):
    root = copy.deepcopy(data.draw(st.sampled_from(PLAIN)))
    here = root
    while isinstance(here, dict | list) and here:
        keys = list(here) if isinstance(here, dict) else range(len(here))
        key = data.draw(
            st.sampled_from([*keys, "new"]) if isinstance(here, dict) else st.sampled_from(keys)
        )
        if key == "new":
            key = data.draw(st.sampled_from(KEYS))
        if key not in keys or not isinstance(here[key], dict | list) or data.draw(st.booleans()):
            here[key] = data.draw(values)
            break
        here = here[key]
    reads_or_refuses(yaml.safe_dump(root, allow_unicode=data.draw(st.booleans())))


@pytest.mark.slow
@settings(derandomize=True, max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(STEPS), max_size=5),
    st.sampled_from(["=", "", "=="]),
    st.sampled_from(BITS) | st.text(max_size=10),
)
def test_random_overrides_never_escape(path, equals, value):
    reads_or_refuses(TEXTS[1], (f"{'.'.join(path)}{equals}{value}",))


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.text(max_size=60))
def test_random_text_never_escapes(text):
    reads_or_refuses(text)
