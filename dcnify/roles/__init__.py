"""The kinds of layers that can be swapped, one folder each."""
