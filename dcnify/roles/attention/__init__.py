"""Role ``attention``."""
