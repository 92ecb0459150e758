"""What a sweep says: tables, comparisons, effects, the best recipes."""
