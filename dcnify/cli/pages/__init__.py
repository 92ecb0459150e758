"""Verbs that show what a folder holds, as a page or a picture."""
