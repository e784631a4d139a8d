"""The page of everything that has been run: claims, sweeps over widths, and experiments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments import _page
from experiments._gathered import Claims, Gathered, Run
from experiments._page import clock, shown, text
from experiments._swept import Group, Swept
from gsjax import pages
from gsjax.pages import Html, element
from theory import page as theory_page

TITLE = "Gradient starvation: everything that has been run"

_SWEEP = "width_sweep"  # the experiment whose summary is that of a sweep
_SECTIONS = {"claims": "Claims of the theory", "sweeps": "Sweeps over widths", "experiments": "Experiments"}
_SIGNATURES = (
    "A signature is a number that shows an effect, or does not, by the criterion stated beside it. Intervals are 95% "
    "intervals of Student's t over seeds, unless said otherwise. Signatures of one run are judged together, by Holm's "
    "method. Published numbers are the paper's; what differs from its setting stands beside them."
)
_ORIGINS = (
    "Tracked records are files of the repository, with the day of their last commit if its history is there; they keep "
    "no clocks, except the seconds of the claims. Results of this machine have the time at which their file was "
    "written, and the seconds of all their cells."
)


class Count(NamedTuple):
    """A sentence that counts, and whether all that it counts is as it should be; None if it is no verdict."""

    sentence: str
    good: bool | None


def page(found: Gathered, titles: Mapping[str, str]) -> str:
    """The page of everything that was found; `titles` has one line on each experiment."""
    runs = sorted(found.runs, key=lambda run: run.summary.content["experiment"] != _SWEEP)  # stable
    places = [f"run-{number}" for number in range(len(runs))]
    placed = list(zip(runs, places, strict=True))

    def articles(sweeps: bool) -> list[Html]:
        chosen = [(run, place) for run, place in placed if (run.summary.content["experiment"] == _SWEEP) == sweeps]
        return [_article(run, place, titles) for run, place in chosen]

    own = [_sweep(sweep, f"sweep-{number}") for number, sweep in enumerate(found.sweeps)]
    inside = {
        "claims": _claims(found.claims) or "No claim has been checked.",
        "sweeps": [*own, *articles(True)] or "No sweep has been run.",
        "experiments": articles(False) or "No experiment has been run.",
    }
    body = element(
        "div",
        (_counted(count) for count in counts(found)),
        _damaged(found.damaged),
        element("p", theory_page.EXPLANATION, " ", _SIGNATURES, class_="soft"),
        _what(found, placed),
        _against(found, placed),
        _versions(found),
        (_section(place, content) for place, content in inside.items()),
    )
    size = (
        f"This page needs no other file: {_number(body.count('<img '), 'figure')}, {len(body.encode()) / 1e6:.1f} MB."
    )
    sections = {"Overview": "page-content", **{name: place for place, name in _SECTIONS.items()}}
    return pages.page(TITLE, element("p", size, class_="soft"), body, sections=sections)


def counts(found: Gathered) -> list[Count]:
    """How many claims and signatures hold, and how much else there is."""
    lines = []
    if records := [record for one in found.claims for record in one.records]:
        hold, fail = sum(r.verdict == "holds" for r in records), sum(r.control_verdict == "fails" for r in records)
        sentence = f"{hold} of {_number(len(records), 'claim')} hold, and {fail} of their controls fail as they should."
        lines.append(Count(sentence, hold == fail == len(records)))
    for tracked, whose in ((False, "of this machine"), (True, "of the tracked records")):
        judged = [run.summary for run in found.runs if run.tracked == tracked and run.summary.judged]
        signatures = [entry for summary in judged for entry in summary.content["signatures"]]
        hold = sum(bool(entry["holds"]) for entry in signatures)
        if judged:
            sentence = (
                f"{hold} of {_number(len(signatures), 'signature')} hold, in {_number(len(judged), 'run')} {whose}."
            )
            lines.append(Count(sentence, hold == len(signatures)))
    if short := sum(not run.summary.judged for run in found.runs):
        lines.append(Count(f"{_number(short, 'run')} of the preset smoke: too short to judge by.", None))
    return lines or [Count("Nothing has been run.", None)]


def origin(tracked: bool) -> str:
    """Where a result comes from, in words."""
    return "tracked record" if tracked else "this machine"


def _number(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _counted(count: Count) -> Html:
    kind = {True: "good", False: "bad", None: "soft"}[count.good]
    return element("p", element("strong", count.sentence), class_=kind)


def _section(place: str, content: Any) -> Html:
    inside = element("p", content, class_="soft") if isinstance(content, str) else content
    return element("section", element("h2", _SECTIONS[place], id=place), inside)


def _damaged(damaged: Sequence[str]) -> Html | None:
    if not damaged:
        return None
    lines = element("ul", (element("li", shown(line)) for line in damaged))
    return element("div", element("h2", "Damaged files"), "What they hold is not on this page.", lines, class_="box")


def _what(found: Gathered, placed: Sequence[tuple[Run, str]]) -> list[Html]:
    """The table of contents: every run with its origin, date, verdicts, figures and time."""

    def row(
        link: Html, tracked: bool, when: str | None, verdict: str, figures: str, seconds: float | None
    ) -> list[str]:
        day = element("span", (when or "not known").split(", ")[0], class_="number")
        return [link, origin(tracked), day, verdict, figures, text(clock(seconds))]

    rows = []
    for one in found.claims:
        figures = sum(record.figure is not None for record in one.records) if one.figures else 0
        verdict = _ratio(sum(record.passes for record in one.records), len(one.records))
        seconds = float(sum(record.seconds for record in one.records))
        link = element("a", _number(len(one.records), "claim"), href=f"#{_place(one)}")
        rows.append(row(link, one.tracked, one.when, verdict, str(figures), seconds))
    for number, sweep in enumerate(found.sweeps):
        link, figures = element("a", shown(sweep.path), href=f"#sweep-{number}"), str(int(sweep.figure is not None))
        rows.append(row(link, False, sweep.when, "not judged", figures, sweep.seconds))
    for run, place in placed:
        signatures = run.summary.content["signatures"]
        verdict = _ratio(sum(bool(entry["holds"]) for entry in signatures), len(signatures))
        verdict = (verdict if run.summary.judged else _page.verdict(False, False)) if signatures else "no signatures"
        link, figures = element("a", run.summary.name, href=f"#{place}"), str(len(run.summary.figures))
        rows.append(row(link, run.tracked, run.when, verdict, figures, run.summary.seconds))
    heads = ("what", "from", "when", "as they should", "figures", "time")
    further = [f"{shown(one.path)}: {_number(one.rows, 'row')}, not finished" for one in found.unfinished]
    further += [f"{shown(path)}: an older run of the claims, not shown" for path in found.older]
    listed = [element("ul", (element("li", line) for line in further))] if further else []
    return [
        element("h2", "What was run"),
        pages.table(heads, rows, label="everything that has been run", right=[4]),
        *listed,
        element("p", _ORIGINS, class_="soft"),
    ]


def _ratio(good: int, count: int) -> Html:
    return pages.badge(f"{good} of {count}", good == count)


def _against(found: Gathered, placed: Sequence[tuple[Run, str]]) -> list[Html] | None:
    """The claims and signatures that do not hold."""
    rows = []
    for record in (record for one in found.claims for record in one.records):
        if not record.passes:
            verdict = pages.badge(f"{record.verdict}, its control {record.control_verdict}", False)
            seen = text(theory_page.observed(record.observation))
            rows.append(
                [element("a", record.claim.name, href=f"#{record.claim.name}"), record.claim.statement, seen, verdict]
            )
    for run, place in placed:
        for entry in run.summary.content["signatures"] if run.summary.judged else ():
            if not entry["holds"]:
                link, seen = element("a", run.summary.name, href=f"#{place}"), text(_page.valued(entry))
                rows.append([link, text(entry["name"]), seen, text(entry["why"])])
    if not rows:
        return None
    heads = ("of", "what does not hold", "value [95% interval]", "why")
    table = pages.table(heads, rows, label="claims and signatures that do not hold")
    return [element("h2", "What does not hold"), pages.fold(f"all {len(rows)}", table)]


def _versions(found: Gathered) -> list[Html]:
    """The versions that results were made with, and which results."""
    made: dict[tuple[str, bool], list[str]] = {}

    def add(versions: Any, tracked: bool, name: str) -> None:
        line = ", ".join(f"{key} {entry}" for key, entry in versions.items()) if isinstance(versions, Mapping) else ""
        made.setdefault((line or "not recorded", tracked), []).append(name)

    for one in found.claims:
        kept = {key: entry for key, entry in one.provenance.items() if key not in ("commit", "started")}
        add(kept, one.tracked, _number(len(one.records), "claim"))
    for sweep in found.sweeps:
        add(sweep.provenance.get("versions"), False, shown(sweep.path))
    for run in found.runs:
        add(run.summary.content["versions"], run.tracked, run.summary.name)
    rows = [[text(line), origin(tracked), ", ".join(names)] for (line, tracked), names in made.items()]
    heads = ("made with", "from", "what")
    return [element("h2", "Versions"), pages.table(heads, rows, label="versions", head_column=False)]


def _place(one: Claims) -> str:
    return "claims-tracked" if one.tracked else "claims-own"


def _claims(checked: Sequence[Claims]) -> list[Html]:
    """Each file of claims: a table of them, and every claim under a line that opens it."""
    return [
        element(
            "article",
            element(
                "header",
                element("h3", f"{_number(len(one.records), 'claim')}, {origin(one.tracked)}"),
                element("span", " · ".join(filter(None, (one.when, one.where))), class_="soft"),
            ),
            element("p", theory_page.summary(one.records, len(one.records)), "."),
            element("p", "Their figures are not tracked; python -m theory draws them.", class_="soft")
            if one.figures is None and any(record.figure for record in one.records)
            else None,
            pages.fold(f"table of {_number(len(one.records), 'claim')}", theory_page.overview(one.records)),
            (theory_page.folded(record, one.figures) for record in one.records),
            pages.fold("versions and devices", pages.facts(one.provenance)) if one.provenance else None,
            id=_place(one),
        )
        for one in checked
    ]


def _article(run: Run, place: str, titles: Mapping[str, str]) -> Html:
    title = titles.get(run.summary.content["experiment"], "")
    notes = [origin(run.tracked), *filter(None, [run.when]), clock(run.summary.seconds), run.where]
    made = {name: entry for name, entry in run.provenance.items() if name != "versions"}
    return _page.article(run.summary, place, title, notes, made)


def _sweep(sweep: Swept, place: str) -> Html:
    """A sweep that has no summary: its slopes, and the figure of its errors."""
    notes = [origin(False), sweep.when, clock(sweep.seconds), shown(sweep.path)]
    heads = ("networks", "seeds", "widths", "error at the largest", "slope [95% interval]", "left out")
    table = pages.table(heads, map(_slope, sweep.groups), label=f"slopes of {shown(sweep.path)}")
    image = None if sweep.figure is None else pages.figure(sweep.figure, f"Errors against width of {shown(sweep.path)}")
    return element(
        "article",
        element("header", element("h3", shown(sweep.path.name)), element("span", " · ".join(notes), class_="soft")),
        element(
            "p",
            f"{_number(sweep.rows, 'row')} without a summary: a sweep of your own, or one that has not been finished. "
            "The error is the relative difference from theory that depends on the width. Widths at which a network has "
            "not converged are left out.",
        ),
        table,
        image,
        pages.fold(
            f"Configuration and versions of {shown(sweep.path)}",
            pages.facts({key: text(_page.flat(entry)) for key, entry in {**sweep.config, **sweep.provenance}.items()}),
        ),
        id=place,
    )


def _slope(group: Group) -> list[str]:
    last = text(float(group.errors[:, -1].mean())) if group.widths else ""
    slope = text(_page.interval(group.slope.value, (group.slope.low, group.slope.high))) if group.slope else ""
    widths, left_out = (", ".join(map(str, some)) for some in (group.widths, group.left_out))
    return [text(group.name), str(group.seeds), widths, last, slope, left_out]
