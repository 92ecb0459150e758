"""Changes of a live model, and the way back."""
