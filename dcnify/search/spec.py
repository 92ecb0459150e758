"""The request of ``dcnify search`` as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dcnify.bench.spec import ModelBenchSpec
from dcnify.data.spec import ImageSpec
from dcnify.errors import InputError
from dcnify.search.choose.budget import Budget, parse_budget
from dcnify.sources.spec import SourceSpec
from dcnify.spec import Spec, option
from dcnify.words import did_you_mean

SCORES = ("measured", "fisher")
INITS = ("closed", "recipe", "fit", "transfer")


@dataclass(frozen=True, kw_only=True)
class SearchSpec(Spec):
    """A search for the layers to swap: in which model, within which budget."""

    source: SourceSpec = option(
        help="What to convert: timm:NAME, torchvision:NAME, a checkpoint, an artifact folder, or "
        "python:package.module:factory.",
        flags=("--source",),
        metavar="SOURCE",
    )
    budget: tuple[str, ...] = option(
        help="Bounds on the converted model, such as latency<=0.8 or agreement>=90%: latency, "
        "flops and params as ratios to the original or with a unit (12ms, 2G, 5M), kl, "
        "agreement, and sites, the number of layers that are swapped. Several with commas, or "
        "given more than once.",
        metavar="BOUND,...",
    )
    recipe: str | None = option(
        None,
        help="The recipe whose layers are candidates: a built-in one or the path of a YAML file. "
        "By default the built-in one that selects most layers of the model.",
        flags=("--recipe", "-r"),
        metavar="RECIPE",
    )
    overrides: tuple[str, ...] = option(
        (),
        help="Change one value of the recipe, such as swaps.late.replace.kernel_size=5. "
        "May be given more than once.",
        flags=("--set",),
        metavar="PATH=VALUE",
    )
    output: str = option(
        help="Folder of recipe.yaml, artifact/, search.json and what was measured.",
        flags=("--output", "-o"),
        metavar="OUT",
    )
    images: ImageSpec = option(ImageSpec(), help="Images to measure and to calibrate on.")
    score: str = option(
        "measured",
        help="How the damage of each layer is found: measured, one conversion for each; or "
        "fisher, from gradients, a few passes for all of them.",
        metavar="NAME",
    )
    init: str = option(
        "closed",
        help="How layers start when they are measured: closed, as the recipe says without "
        "gradient steps; recipe, as it says; fit; or transfer. The artifact starts as it says.",
        metavar="NAME",
    )
    bench: ModelBenchSpec = option(ModelBenchSpec(), help="How latency is measured.")
    seed: int = option(0, help="Seed of everything random.", least=0, most=2**31 - 1)
    overwrite: bool = option(
        False, help="Replace the recipe and the artifact of a search with another budget."
    )

    @property
    def folder(self) -> Path:
        """The output, without symbolic links."""
        return Path(self.output).resolve()

    @property
    def bounds(self) -> Budget:
        """The budget, read.

        Raises:
            InputError: it cannot be read.
        """
        return parse_budget(self.budget)

    def check(self) -> None:
        """Refuse what cannot work, before torch is imported.

        Raises:
            InputError: the source, the budget or a word is wrong.
        """
        self.source.check()
        parse_budget(self.budget)
        for flag, value, known in (("score", self.score, SCORES), ("init", self.init, INITS)):
            if value not in known:
                near = did_you_mean(value, known, otherwise=f"; there is {', '.join(known)}")
                raise InputError(f"--{flag} {value}: not known{near}")
