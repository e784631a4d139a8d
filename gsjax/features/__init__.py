"""Features of gradient starvation: the singular value decomposition of Y Phi (Pezeshki et al. 2021, Eq. 4)."""

from gsjax.features.decomposition import (
    Features,
    Origin,
    eigenfeatures,
    from_ntk,
    from_ntrf,
    from_spectrum,
    planar,
    require_binary,
    response,
)
from gsjax.features.leading import from_operator
from gsjax.features.products import held

__all__ = [
    "Features",
    "Origin",
    "eigenfeatures",
    "from_ntk",
    "from_ntrf",
    "from_operator",
    "from_spectrum",
    "held",
    "planar",
    "require_binary",
    "response",
]
