"""From YAML text to checked data, with the line and column of everything in it."""
