"""A package, so that the one of the same name that neural-tangents installs is never taken for it."""
