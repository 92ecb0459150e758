"""What a recipe requires of a conversion, and layers that are reverted for it."""
