"""The built-in recipes: YAML files beside this one, read by `dcnify.recipe`."""
