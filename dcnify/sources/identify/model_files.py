"""Which of timm's model files could have written these weight names: a cheap look before building.

Every identifier in a weight name (``stages.0.blocks.1.conv_dw.weight`` has ``stages``, ``blocks``,
``conv_dw``) is an attribute that some class sets: its source has it after ``self.`` or in quotes.
Files whose source, with what it imports from timm, has all identifiers come first.
"""

import inspect
import re
import sys
from collections.abc import Iterable
from functools import cache

import timm

_ATTRIBUTE = re.compile(r"""\bself\.(\w+)\s*[:=,]|['"]([A-Za-z_][\w.]*)['"{%]""")
_DIGITS = re.compile(r"\d+")
_MOST_PARTS = 500
# Names that torch's own layers give.
_TORCH = {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}
# Modules that every model file imports to build, register and download; they name no layers.
_PLUMBING = re.compile(
    r"timm\.(data|utils|loss|optim)\b|timm\.models\."
    r"_(builder|factory|features|features_fx|helpers|hub|input|manipulate|pretrained|prune|registry)$"
)


def rank_model_files(keys: Iterable[str]) -> list[tuple[float, list[str]]]:
    """Order timm's model files by how well their source explains the weight names ``keys``.

    Returns:
        (score, model names) per file, best first. A score of 1 means that every identifier stands
        in the source as it is; identifiers that are only explained without their digits
        (``layer1``, set as ``f"layer{i}"``) count for less.
    """
    wanted = _parts(keys)
    ranked = []
    for name in timm.models.list_modules():
        models = timm.list_models(module=name)
        if not models:
            continue
        file = timm.models.model_entrypoint(models[0]).__module__
        ranked.append((_score(file, wanted), models))
    return sorted(ranked, key=lambda item: -item[0])


def explained(module_name: str, keys: Iterable[str]) -> float:
    """How well the source of an imported module explains the weight names ``keys``: 0 to 1."""
    return _score(module_name, _parts(keys))


def _parts(keys: Iterable[str]) -> list[str]:
    parts = {part for key in keys for part in key.split(".") if not part.isdigit()} - _TORCH
    return sorted({_DIGITS.sub("0", part): part for part in parts}.values())[:_MOST_PARTS]


def _score(module_name: str, wanted: list[str]) -> float:
    words = _reachable_words(module_name)
    return sum(_explains(words, part) for part in wanted) / max(1, len(wanted))


def _explains(words: frozenset[str], part: str) -> float:
    if part in words:
        return 1.0
    return 0.8 if all(piece in words for piece in re.findall("[A-Za-z]+", part)) else 0.0


@cache
def _reachable_words(module_name: str) -> frozenset[str]:
    top = {"timm", module_name.partition(".")[0]}
    queue = [module_name]
    seen: set[str] = set()
    words: set[str] = set()
    while queue:
        name = queue.pop()
        if name in seen or name not in sys.modules:
            continue
        seen.add(name)
        module = sys.modules[name]
        words |= _words(name)
        owners = {str(getattr(value, "__module__", "")) for value in vars(module).values()}
        queue += [o for o in owners if o.partition(".")[0] in top and not _PLUMBING.match(o)]
    return frozenset(words)


@cache
def _words(module_name: str) -> frozenset[str]:
    try:
        text = inspect.getsource(sys.modules[module_name])
    except (OSError, TypeError):
        return frozenset()
    spelled = (name for pair in _ATTRIBUTE.findall(text) for name in pair)
    return frozenset(part.strip("_") for name in spelled for part in name.split(".")) - {""}
