"""What does not work with a model of the zoo: by step a part of the reason that is given."""

KNOWN: dict[str, dict[str, str]] = {}
