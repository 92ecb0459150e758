"""Role ``dcnv3``."""
