"""Fit a DCNv4 layer to what an old layer computes, whatever the old layer is."""
