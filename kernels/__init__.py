"""Triton kernels and their launch tuning: tensors in, tensors out, no autograd, no modules.

`launch` takes tensors, `plan` turns their shapes into launches, `config` has the tile shapes; the
kernels are `forward`, `backward` (offsets and weights) and `backward_value`.
"""
