"""Fit new layers to the old ones on images, without labels."""
