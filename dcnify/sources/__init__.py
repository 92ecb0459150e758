"""Open models: names of timm and torchvision, weight files, folders, the user's own code."""
