"""The operator's CPU kernels, compiled by Numba."""
