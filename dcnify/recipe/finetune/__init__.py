"""The ``finetune`` section of a recipe."""
