"""How far an answer is from the one expected."""


def relative(seen, expected):
    return ((seen - expected).norm() / expected.norm()).item()
