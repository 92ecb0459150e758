"""Names that other libraries give the layers of models that timm has too.

Some are put into the names of a paper's repository, which timm's own filters read. The others are
named, with the way out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Layout:
    """How a library names layers: a sign of it, and what to write instead."""

    library: str
    sign: re.Pattern[str]
    """Found in at least one name."""
    spellings: tuple[tuple[str, str], ...]
    """Patterns and what takes their place, in this order."""

    def respelled(self, names: Iterable[str]) -> dict[str, str] | None:
        """Each name as the paper has it; None if they are not of this library."""
        names = list(names)
        if not any(self.sign.search(name) for name in names):
            return None
        out = {}
        for name in names:
            short = name
            for pattern, instead in self.spellings:
                short = re.sub(pattern, instead, short)
            out[name] = short
        return out if len(set(out.values())) == len(out) else None


LAYOUTS = (
    Layout(
        "mmpretrain or mmdetection",
        re.compile(r"\.(depthwise_conv|pointwise_conv1)\."),
        (
            (r"^backbone\.", ""),
            (r"\bdepthwise_conv\b", "dwconv"),
            (r"\bpointwise_conv(?=\d)", "pwconv"),
            (r"^norm3\.", "norm."),
            (r"^head\.fc\.", "head."),
        ),
    ),
    Layout(
        "mmpretrain",
        re.compile(r"\bffn\.layers\.0\.0\.weight$"),
        (
            (r"^backbone\.", ""),
            (r"^ln1\.", "norm."),
            (r"\blayers\.(\d+)\.(ln1|ln2|attn|ffn)\b", r"blocks.\1.\2"),
            (r"\bln([12])\b", r"norm\1"),
            (r"\bffn\.layers\.0\.0\b", "mlp.fc1"),
            (r"\bffn\.layers\.1\b", "mlp.fc2"),
            (r"\bpatch_embed\.projection\b", "patch_embed.proj"),
            (r"^head\.layers\.head\.", "head."),
            (r"^head\.fc\.", "head."),
        ),
    ),
    Layout(
        "DINOv2's training",
        re.compile(r"^(.*\bbackbone\.)?blocks\.\d+\.\d+\.attn\.qkv\b"),
        ((r"^(.*\bbackbone\.)?blocks\.\d+\.(\d+)\.", r"\1blocks.\2."),),
    ),
)


def in_published_names(names: Iterable[str]) -> tuple[dict[str, str], str | None]:
    """Each name as a paper's repository has it, and the library whose names they are, if one's."""
    names = list(names)
    for layout in LAYOUTS:
        if (found := layout.respelled(names)) is not None:
            return found, layout.library
    return {name: name for name in names}, None


_WAY_OUT = "build it there and give --arch python:package.module:factory"
_OTHERS = (
    (
        "Hugging Face transformers",
        re.compile(r"^(\w+\.)?(encoder|embeddings)\.(layers?|stages|patch_embeddings|cls_token)\b"),
        "give the folder that holds it with its config.json",
    ),
    ("torchvision", re.compile(r"^features\.\d+\.\d+\.|^(conv_proj|encoder\.layers)\."), ""),
    (
        "OpenMMLab",
        re.compile(r"\b(w_msa|ffn\.layers\.\d|conv_module)\b|^backbone\.layers?"),
        _WAY_OUT,
    ),
    ("ultralytics", re.compile(r"^(model\.)?model\.\d+\.(conv|cv1|m)\b"), _WAY_OUT),
    ("Detectron2", re.compile(r"^backbone\.bottom_up\.|^res\d\.\d+\.conv"), _WAY_OUT),
    ("a text model", re.compile(r"\b(wte|wpe|word_embeddings|embed_tokens|lm_head)\b"), ""),
)


def library_of(names: Iterable[str]) -> str | None:
    """``names of ... : way out`` where many of the names are as a known library spells them."""
    names = list(names)
    for library, sign, way in _OTHERS:
        if sum(bool(sign.search(name)) for name in names) > len(names) / 4:
            return f"the names are those of {library}" + (f": {way}" if way else "")
    return None
