"""Verbs that take what `dcnify convert` wrote."""
