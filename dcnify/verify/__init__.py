"""Recompute what an artifact claims."""
