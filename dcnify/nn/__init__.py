"""`DCNv4`, and the adapters that stand where a depthwise convolution or an attention stood."""

from dcnify.nn.dcnv4 import DCNv4
from dcnify.nn.depthwise import DepthwiseDCNv4
from dcnify.nn.prefix import PrefixAttention
from dcnify.nn.tokens import TokenDCNv4

__all__ = ["DCNv4", "DepthwiseDCNv4", "PrefixAttention", "TokenDCNv4"]
