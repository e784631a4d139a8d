"""Records of claims as `python -m theory` has written them, checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gsjax import files
from theory.claim import Claim, Control, Observation, Record

_ADVICE = "run python -m theory again, or copy its results again"
_NOT_RECORDED = ""
_NUMBER = (int, float, str, type(None))  # null if it was not finite
_TEXT_OR_NONE = (str, type(None))
_CLAIM = {
    **dict.fromkeys(("name", "reference", "statement"), (str,)),
    **dict.fromkeys(("predicted", "observed", "tolerance"), _NUMBER),
    **dict.fromkeys(("control", "details"), (dict,)),
    **dict.fromkeys(("error", "figure"), _TEXT_OR_NONE),
    "holds": (bool,),
    "seconds": (int, float),
}
_CONTROL = {
    **dict.fromkeys(("name", "statement"), (str,)),
    "observed": _NUMBER,
    "holds": (bool,),
    "error": _TEXT_OR_NONE,
    "details": (dict,),
}


def read(path: Path) -> list[Record]:
    """The records in a `claims.json`; of each control, the predicted number and the tolerance are not recorded.

    Raises:
        ValueError: the file is damaged; the message names it.
        OSError: it cannot be read.
    """
    try:
        content = files.parse(path.read_bytes())
        if not isinstance(content, list) or not content:
            raise ValueError(f"expected a list of claims, got {_short(content)}")
        found = [_record(entry) for entry in content]
        names = [record.claim.name for record in found]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"expected every claim once, got {', '.join(sorted(repeated))} more than once")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {_ADVICE}") from error
    return found


def provenance(path: Path) -> dict[str, str]:
    """The environment in a `provenance.json`; empty if there is no such file.

    Raises:
        ValueError: the file is damaged; the message names it.
        OSError: it cannot be read.
    """
    if not path.exists():
        return {}
    try:
        content = files.parse(path.read_bytes())
        if not isinstance(content, dict) or not all(isinstance(entry, str) for entry in content.values()):
            raise ValueError(f"expected names and texts, got {_short(content)}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); {_ADVICE}") from error
    return content


def _record(entry: Any) -> Record:
    _check(entry, _CLAIM)
    control = entry["control"]
    _check(control, _CONTROL)
    if entry["seconds"] < 0:
        raise ValueError(f"seconds: expected 0 or more, got {entry['seconds']}")
    if (figure := entry["figure"]) is not None and figure != f"{entry['name']}.png":
        raise ValueError(f"figure: expected {entry['name']}.png, got {_short(figure)}")

    def unknown(**_: Any) -> Observation:
        raise NotImplementedError("a record of a claim has no check")

    claim = Claim(
        entry["name"],
        entry["reference"],
        entry["statement"],
        unknown,
        Control(control["name"], control["statement"], {}),
    )
    predicted, observed, tolerance = (_shown(entry[key]) for key in ("predicted", "observed", "tolerance"))
    return Record(
        claim,
        Observation(predicted, observed, tolerance, entry["holds"], entry["details"]),
        Observation(_NOT_RECORDED, _shown(control["observed"]), _NOT_RECORDED, control["holds"], control["details"]),
        float(entry["seconds"]),
        entry["error"],
        control["error"],
        figure,
    )


def _shown(value: Any) -> Any:
    return "not finite" if value is None else value


def _check(entry: Any, columns: Mapping[str, tuple[type, ...]]) -> None:
    """Checks that `entry` has the keys and types of `columns`; further keys are allowed."""
    if not isinstance(entry, dict):
        raise ValueError(f"expected an object, got {_short(entry)}")
    for key, kinds in columns.items():
        value = entry.get(key, ...)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(kind.__name__ for kind in kinds)
            got = "nothing" if value is ... else _short(value)
            raise ValueError(f"{key}: expected {wanted}, got {got}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
