"""Turn a region of a block into a submodule by rewriting the block's FX graph."""
