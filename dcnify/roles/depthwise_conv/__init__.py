"""Role ``depthwise_conv``."""
