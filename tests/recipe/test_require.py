"""The recipe's ``require`` of the output: what can be asked, and what `dcnify run` makes of it."""

import pytest
from support.decided import text

from dcnify.errors import InputError
from dcnify.recipe import Recipe


def read(require: str, *overrides: str) -> Recipe:
    return Recipe.from_yaml(text(require), "r.yaml", overrides)


@pytest.mark.parametrize(
    ("require", "words"),
    [
        ("{on_violation: warn}", r"r.yaml:8:10: .*at least one of agreement, kl, cosine"),
        ("{agreement: 50}", r"r.yaml:8:22: .*1 or less, got 50"),
        ("{kl: -1}", r"r.yaml:8:15: .*0 or more, got -1"),
        ("{agrement: 0.5}", r"r.yaml:8:11: .*did you mean 'agreement'"),
        ("{cosine: 0.9, on_violation: revrt}", r"r.yaml:8:38: .*did you mean 'revert'"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stands(require, words):
    with pytest.raises(InputError, match=words):
        read(require)


def test_it_reads_back_equal_and_can_be_overridden():
    recipe = read("{agreement: 0.5, kl: 2}")
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    assert read("{agreement: 0.5}", "require.on_violation=revert").require.on_violation == "revert"
    assert Recipe.load("convnext", ["require=null"]).require is None


def test_where_training_follows_only_a_failure_that_was_asked_for_fails():
    assert read("{agreement: 0.5}").warning_by_default().require.on_violation == "warn"
    asked = read("{agreement: 0.5, on_violation: fail}")
    assert asked.warning_by_default() is asked
    assert read("").warning_by_default().require is None
