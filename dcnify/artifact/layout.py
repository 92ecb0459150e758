"""The names of what an artifact holds. Fixed, so that nothing read from a file names a path."""

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
RECIPE = "recipe.yaml"
REPORT = "report.json"
GOLDEN = "golden.safetensors"

FILES = (CONFIG, WEIGHTS, PLAN, RECIPE, REPORT)
"""What every artifact has. Those of dcnify 0.1's first days have no golden output."""
OURS = (*FILES, GOLDEN)
"""What is replaced when an artifact is overwritten; other files in the folder stay."""
TRAINING = "finetune"
"""A folder in an artifact's: checkpoints, metrics and curves of a fine-tuning. It may be there
before the artifact is."""
FILE_SUFFIXES = (".pt", ".pth")
FILE_FORMAT = "dcnify"
