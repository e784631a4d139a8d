"""Diagnosis of a network on data: its features, who starves whom, and what not to conclude."""

from gsjax.diagnosis.alignment import Alignment
from gsjax.diagnosis.cautions import Caution
from gsjax.diagnosis.decoupling import Effect
from gsjax.diagnosis.examples import Examples, Pair
from gsjax.diagnosis.front import diagnose
from gsjax.diagnosis.report import Diagnosis
from gsjax.diagnosis.solution import Status
from gsjax.diagnosis.stability import Stability
from gsjax.diagnosis.trained import Movement, Trained
from gsjax.diagnosis.verdict import Verdict

__all__ = [
    "Alignment",
    "Caution",
    "Diagnosis",
    "Effect",
    "Examples",
    "Movement",
    "Pair",
    "Stability",
    "Status",
    "Trained",
    "Verdict",
    "diagnose",
]
