r"""Features, equilibrium and starvation for softmax cross-entropy with k classes.

The loss of one example with label c is `log sum_j exp(f_j) - f_c = max over p in the simplex of H(p) + (p - e_c).f`,
with equality at `p = softmax(f)`; this is the analogue of Eq. 6. Let `a = e_c - p` take the place of `alpha`, stack all
n k outputs, and let `Phi = U S V^T` be `(n k, m)`. With ridge strength lambda, the dual of Eq. 8 and the responses of
Eq. 11 become

.. math::

    \max_p \; \mathbf{1} \cdot H(p) - \frac{\lVert \Phi^\top a \rVert^2}{2 \lambda},
    \qquad z^* = S V^\top \theta^* = \frac{1}{\lambda} S^2 U^\top a^*.

Labels enter through `a`, not through the features. Two classes with logits `(-f/2, f/2)` give the binary case.
"""

from gsjax.multiclass.choosing import match
from gsjax.multiclass.equilibrium import Equilibrium, equilibrium
from gsjax.multiclass.features import Features, from_ntk, from_ntrf, from_operator
from gsjax.multiclass.matrix_free import OperatorEquilibrium, equilibrium_from_operator, starvation_from_operator
from gsjax.multiclass.sensitivities import starvation_matrix

__all__ = [
    "Equilibrium",
    "Features",
    "OperatorEquilibrium",
    "equilibrium",
    "equilibrium_from_operator",
    "from_ntk",
    "from_ntrf",
    "from_operator",
    "match",
    "starvation_from_operator",
    "starvation_matrix",
]
