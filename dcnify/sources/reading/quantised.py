"""Know quantised weights by the names that their tools leave beside them."""

import re
from collections.abc import Iterable

from dcnify.errors import InputError

_SIGNS = {
    "bitsandbytes": r"\.SCB|\.weight_format|\.absmax|\.quant_map|\.nested_absmax|quant_state\.",
    "GPTQ or AWQ": r"\.qweight|\.qzeros|\.g_idx",
    "torch.ao.quantization (quantize_dynamic)": r"_packed_params(\.|$)|_packed_weight",
    "torchao": r"\.weight(:|__)(tensor_impl|int_data|qdata|scale)|_quantized_linear",
    "HQQ": r"\.W_q$",
    "optimum-quanto": r"\.weight\._(data|scale|shift)$",
    "compressed-tensors": r"\.weight_packed$",
    "a tool that stores scales beside them": r"\.weight_(scale|scale_inv|zero_point)$",
}
_PATTERNS = {tool: re.compile(pattern) for tool, pattern in _SIGNS.items()}
_PRUNED = re.compile(r"(?P<layer>.*)\.(weight|bias)_(orig|mask)$")
_PARAMETRIZED = re.compile(r"(?P<layer>.*)\.parametrizations\.\w+\.original\d?$")
_OBSERVED = re.compile(r"activation_post_process|weight_fake_quant|fake_quant_enabled")


def refuse_quantised(names: Iterable[object], what: str) -> None:
    """Raise `InputError` for names that only quantised, pruned or parametrised layers have."""
    for name in (name for name in names if isinstance(name, str)):
        for tool, pattern in _PATTERNS.items():
            if pattern.search(name):
                raise InputError(
                    f"{what}: {name} is of weights that {tool} quantised; convert the float "
                    "original, or dequantise it first"
                )
        if _OBSERVED.search(name):
            raise InputError(
                f"{what}: {name} is of a model prepared for quantisation; convert the float "
                "original, or save the weights without observers"
            )
        if match := _PRUNED.match(name):
            raise InputError(
                f"{what}: {match['layer']} is pruned by torch.nn.utils.prune or of spectral_norm; "
                "call prune.remove (remove_spectral_norm) and save again"
            )
        if match := _PARAMETRIZED.match(name):
            raise InputError(
                f"{what}: {match['layer']} is parametrised; call "
                "torch.nn.utils.parametrize.remove_parametrizations and save again"
            )
