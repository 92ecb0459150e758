"""Choosing a set from predictions: arrays in, a set out; no model, no files."""
