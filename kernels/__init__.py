"""Triton kernels and their launch tuning: tensors in, tensors out, no autograd, no modules.

There are none yet. Until there are, `dcnify.ops` runs plain PyTorch on every device; its
``backends.py`` is where a kernel is plugged in.
"""
