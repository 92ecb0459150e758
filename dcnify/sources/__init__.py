"""Open models: timm names, weight files, folders, the user's own code."""
