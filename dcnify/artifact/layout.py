"""File names within an artifact. They are fixed, so that no file can name a path."""

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
RECIPE = "recipe.yaml"
REPORT = "report.json"
GOLDEN = "golden.safetensors"

FILES = (CONFIG, WEIGHTS, PLAN, RECIPE, REPORT)
"""Files of every artifact; early ones of dcnify 0.1 have no golden output."""
OURS = (*FILES, GOLDEN)
"""Files that are replaced when an artifact is overwritten; others in the folder stay."""
TRAINING = "finetune"
"""Subfolder for checkpoints, metrics and curves of a fine-tuning; it may exist before the
artifact does."""
FILE_SUFFIXES = (".pt", ".pth")
FILE_FORMAT = "dcnify"
