"""Readers of images: folders, files, timm's datasets, the built-in one, installed photographs."""
