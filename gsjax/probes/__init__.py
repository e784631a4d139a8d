"""What a network has learnt, beyond its accuracy: decision boundaries, adversarial margins."""

from gsjax.probes import boundary, margins

__all__ = ["boundary", "margins"]
