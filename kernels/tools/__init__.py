"""Inspect, count and tune the kernels."""
