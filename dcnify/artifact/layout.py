"""The names of what an artifact holds. Fixed, so that nothing read from a file names a path."""

FORMAT = 1
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
PLAN = "plan.json"
RECIPE = "recipe.yaml"
REPORT = "report.json"

FILES = (CONFIG, WEIGHTS, PLAN, RECIPE, REPORT)
FILE_SUFFIXES = (".pt", ".pth")
FILE_FORMAT = "dcnify"
