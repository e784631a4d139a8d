"""A package, so that the package of the same name that neural-tangents installs does not shadow it."""
