"""Which sites a recipe's swaps take."""
