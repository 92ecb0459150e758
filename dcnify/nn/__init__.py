"""`DCNv3`, `DCNv4`, and the adapters that stand where another layer stood."""

from dcnify.nn.dcnv3 import DCNv3
from dcnify.nn.dcnv3_parts import FusedDCNv3
from dcnify.nn.dcnv4 import DCNv4
from dcnify.nn.depthwise import ConvDCNv4, DepthwiseDCNv4
from dcnify.nn.handover import Handover
from dcnify.nn.prefix import PrefixAttention
from dcnify.nn.tokens import TokenDCNv4, connect_grids

__all__ = [
    "ConvDCNv4",
    "DCNv3",
    "DCNv4",
    "DepthwiseDCNv4",
    "FusedDCNv3",
    "Handover",
    "PrefixAttention",
    "TokenDCNv4",
    "connect_grids",
]
