"""Capture a model as an FX graph and find the sites in it."""

from dcnify.graph.site import NearMiss, Site, Sites

__all__ = ["NearMiss", "Site", "Sites"]
