"""The report of a diagnosis."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from gsjax import files
from gsjax.diagnosis.alignment import Alignment
from gsjax.diagnosis.cautions import Caution
from gsjax.diagnosis.decoupling import Effect
from gsjax.diagnosis.examples import Examples, Pair
from gsjax.diagnosis.solution import Status
from gsjax.diagnosis.stability import Stability
from gsjax.diagnosis.trained import Trained
from gsjax.diagnosis.verdict import Verdict
from gsjax.objectives import Penalty

if TYPE_CHECKING:
    from gsjax.plotting import Figure

__all__ = ["Diagnosis", "plain"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Diagnosis:
    """What `diagnose` has found; `print` shows it as a table.

    Arrays are NumPy's. Features, examples and classes count from 0 in the fields, and features from 1 in text and
    figures. Features are sorted by strength; each has the sign for which its response is not negative.

    - `n` examples; `classes`, None for a binary task; `labels`, the number of examples of each label; `rows`, the
      number of outputs, n or n times classes; `penalty`; `path`, "exact" or "operator"; `dtype`.
    - `s (r,)`, `strengths (r,)`: singular values and their squares; `share (r,)`: of the sum of all strengths, None
      where that is not known; `rank` and the `weakest` singular value of the kernel, None where they are not known.
    - `response (r,)`: z* at the optimum; `starvation (r, r)`: `[j, i] = d|z_j*| / d(s_i^2)`; `starving`: the share of
      the ordered pairs of distinct shown features that starve; `toll (r,)`: what each feature takes from the others,
      `sum over j of max(0, -d|z_j*| / d log(s_i^2))`.
    - `pairs`: the starving pairs (`Pair`), the largest elasticity first; `examples`: the heaviest (`Examples`).
    - `decoupling`: the effect of the other kind of penalty (`Effect`), None where it is not defined.
    - `alignment` and `verdict`: with a group (`Alignment`, `Verdict`), else None.
    - `trained`: with trained parameters (`Trained`), else None.
    - `stability`: on random halves (`Stability`), None for too few examples.
    - `confidence`: the mean probability of the right label at the optimum; `size`: the norm of all predicted changes of
      outputs, which is that of all responses; `start`: the norm of the outputs at `params`, relative to `size`;
      `accuracy_start`: the accuracy at `params`.
    - `status`: of the solver (`Status`); `cautions`: what not to conclude (`Caution`); `notes`: what was done.
    - `weights (n, c, r)`: the features, u; `pictures`: those of the examples that the report shows, by row of x.
    """

    n: int
    classes: int | None
    labels: Mapping[int, int]
    rows: int
    penalty: Penalty
    path: str
    dtype: str
    s: Float[np.ndarray, " r"]
    share: Float[np.ndarray, " r"] | None
    rank: int | None
    weakest: float | None
    response: Float[np.ndarray, " r"]
    starvation: Float[np.ndarray, "r r"]
    starving: float
    toll: Float[np.ndarray, " r"]
    pairs: tuple[Pair, ...]
    examples: Examples
    decoupling: Effect | None
    alignment: Alignment | None
    verdict: Verdict | None
    trained: Trained | None
    stability: Stability | None
    confidence: float
    size: float
    start: float
    accuracy_start: float
    status: Status
    notes: tuple[str, ...]
    weights: Float[np.ndarray, "n c r"]
    pictures: Mapping[int, np.ndarray]
    cautions: tuple[Caution, ...] = ()

    @property
    def strengths(self) -> Float[np.ndarray, " r"]:
        """Strengths `s_j^2 (r,)`."""
        return self.s**2

    def __str__(self) -> str:
        from gsjax.diagnosis import text

        return text.table(self)

    def __repr__(self) -> str:
        codes = ", ".join(caution.code for caution in self.cautions)
        return f"<Diagnosis of {self.n} examples, {len(self.s)} features; cautions: {codes or 'none'}; print it>"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain data, which `json.dumps(..., allow_nan=False)` accepts.

        Arrays become nested lists, and numbers that are not finite None. The weights of all examples and the pictures
        are left out.
        """
        left_out = ("weights", "pictures", "penalty")
        fields = {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in left_out
        }
        penalty = {field.name: getattr(self.penalty, field.name) for field in dataclasses.fields(self.penalty)}
        kind = type(self.penalty).__name__
        return plain({**fields, "strengths": self.strengths, "penalty": {"kind": kind, **penalty}})

    def plot(self) -> dict[str, Figure]:
        """The figures of the report by name, as matplotlib figures."""
        from gsjax.diagnosis import figures

        return {name: drawn.figure for name, drawn in figures.draw(self).items()}

    def to_html(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as one page that needs no other files; an existing file is replaced when it is complete.

        Raises:
            OSError: the file cannot be written; the error names it.
        """
        from gsjax.diagnosis import page

        files.write(path, page.complete(self).encode())

    def _repr_html_(self) -> str:
        from gsjax.diagnosis import page

        return page.fragment(self)


def plain(value: Any) -> Any:
    """`value` as plain data: named tuples and mappings as dicts, arrays as lists, numbers that are not finite as None.

    >>> plain({1: np.array([1.0, np.nan]), "a": Status(np.True_, np.float32(0.5), 3)})
    {'1': [1.0, None], 'a': {'converged': True, 'residual': 0.5, 'iterations': 3}}
    """
    if value is None or isinstance(value, str | bool):
        return value
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return [plain(entry) for entry in value]
    array = np.asarray(value)
    if array.ndim:
        return [plain(entry) for entry in array]
    if array.dtype == bool:
        return bool(array)
    if np.issubdtype(array.dtype, np.integer):
        return int(array)
    return float(array) if np.isfinite(array) else None
