"""Every check complains about a page with the defect that it looks for, and not about the same page without it."""

from __future__ import annotations

import pytest

from gsjax import pages
from gsjax.pages import element
from tests.browser import checks
from tests.test_pages import png

GOOD = pages.page(
    "A page",
    element("p", "Text with ", element("a", "a link", href="#place"), "."),
    pages.table(["a", "b"], [["1", "2"]], label="numbers"),
    pages.figure(png(), "a figure"),
    pages.fold("more", element("p", element("a", "another link", href="#place")), pages.figure(png(2000), "wide")),
    element("h2", "Place", id="place"),
    sections={"Place": "place"},
)

ALL = {
    "heard": lambda page, heard: heard,
    "undrawn": lambda page, heard: checks.undrawn(page),
    "overflowing": lambda page, heard: checks.overflowing(page),
    "unreachable": lambda page, heard: checks.unreachable(page),
    "violations": lambda page, heard: checks.violations(page),
}


def complaints(browser, folder, content, only=None, width=375, scheme="light"):
    """What each check says about a page."""
    path = folder / "page.html"
    path.write_text(content, encoding="utf-8")
    found = {}
    for name in ALL if only is None else [only]:
        with checks.visit(browser, path.as_uri(), width, scheme) as (page, heard):
            found[name] = list(ALL[name](page, heard))
    return found if only is None else found[only]


@pytest.mark.parametrize("scheme", checks.SCHEMES)
@pytest.mark.parametrize("width", checks.WIDTHS)
def test_a_good_page_has_no_complaint(browser, tmp_path, width, scheme):
    assert complaints(browser, tmp_path, GOOD, None, width, scheme) == {name: [] for name in ALL}


def with_(content, *, folded=False):
    """The good page with more content, at its end or in its fold."""
    place = "</details>" if folded else "</main>"
    return GOOD.replace(place, f"{content}\n{place}", 1)


PNG = "data:image/png;base64,"


@pytest.mark.parametrize(
    ("defect", "check", "complaint"),
    [
        ("<script>console.error('broken')</script>", "heard", "console error: broken"),
        ("<script>console.warn('careful')</script>", "heard", "console warning: careful"),
        ("<script>missing()</script>", "heard", "uncaught error: missing is not defined"),
        ("<img alt='x' src='missing.png'>", "heard", "request failed: file:"),
        ("<img alt='x' src='http://example.invalid/a.png'>", "heard", "to another host: http://example.invalid/a.png"),
        ("<link rel=stylesheet href='https://example.invalid/a.css'>", "heard", "to another host: https://example"),
        ("<img alt='broken' width=40 height=40 src='missing.png'>", "undrawn", "not drawn: img 'broken'"),
        (f"<img alt='cut off' width=40 height=40 src='{PNG}iVBORw0KGgo='>", "undrawn", "not drawn: img 'cut off'"),
        (f"<img alt='gone' hidden src='{PNG}iVBORw0KGgo='>", "undrawn", "hidden: img 'gone'"),
        ("<div id=big style='width: 500px'>wide</div>", "overflowing", "pixels in a window of 375: div#big"),
        ("<p style='white-space: nowrap'>" + "wide " * 40 + "</p>", "overflowing", "p 'wide"),
        ("<button tabindex=-1>skipped</button>", "unreachable", "Tab does not reach button 'skipped'"),
        ("<span role=button>pretended</span>", "unreachable", "Tab does not reach span 'pretended'"),
        ("<span onclick='go()'>clicked</span>", "unreachable", "Tab does not reach span 'clicked'"),
        ("<button style='outline: none'>unseen</button>", "unreachable", "focus is not visible on button 'unseen'"),
        (
            "<button style='outline: 3px solid transparent'>clear</button>",
            "unreachable",
            "not visible on button 'clear'",
        ),
        ("<button style='position: fixed; left: -99rem'>away</button>", "unreachable", "hidden while it has the focus"),
        (
            "<div style='position: fixed; inset: 0; background: #fff'>over everything</div>",
            "unreachable",
            "hidden while it has the focus: a 'a link'",
        ),
        (
            "<button onkeydown='event.preventDefault()'>trap</button><a href='#place'>after</a>",
            "unreachable",
            "focus cannot leave button 'trap'",
        ),
        (
            "<details><summary onkeydown='event.preventDefault()'>shut</summary>in</details><a href='#place'>after</a>",
            "unreachable",
            "Enter does not open summary 'shut'",
        ),
        ("<p style='color: #999; background: #fff'>pale</p>", "violations", "color-contrast:"),
        (f"<img src='{PNG}iVBORw0KGgo='>", "violations", "image-alt:"),
        ("<button></button>", "violations", "button-name:"),
        ("<h6>far down</h6>", "violations", "heading-order:"),
        ("<ul><p>no entry</p></ul>", "violations", "list:"),
    ],
)
def test_a_defect_is_found(browser, tmp_path, defect, check, complaint):
    found = complaints(browser, tmp_path, with_(defect), check)
    assert any(complaint in line for line in found), found


@pytest.mark.parametrize(
    ("defect", "check", "complaint"),
    [
        ("<img alt='broken' width=40 height=40 src='missing.png'>", "undrawn", "not drawn: img 'broken'"),
        ("<div id=big style='width: 500px'>wide</div>", "overflowing", "unfolded: "),
        ("<button tabindex=-1>skipped</button>", "unreachable", "Tab does not reach button 'skipped'"),
        ("<p style='color: #999; background: #fff'>pale</p>", "violations", "unfolded: color-contrast:"),
    ],
)
def test_a_defect_in_a_fold_is_found(browser, tmp_path, defect, check, complaint):
    assert any(complaint in line for line in complaints(browser, tmp_path, with_(defect, folded=True), check))


def test_contrast_is_that_of_the_scheme(browser, tmp_path):
    content = with_("<p style='color: #222; background: transparent'>dark</p>")
    assert complaints(browser, tmp_path, content, "violations", scheme="light") == []
    assert "color-contrast" in complaints(browser, tmp_path, content, "violations", scheme="dark")[0]


def test_what_fits_one_width_need_not_fit_the_other(browser, tmp_path):
    content = with_("<div style='width: 500px'>wide</div>")
    assert complaints(browser, tmp_path, content, "overflowing", width=1280) == []


def test_radio_buttons_and_their_labels_count_as_one(browser, tmp_path):
    group = "<fieldset><legend>Kind</legend>%s</fieldset>" % "".join(  # noqa: UP031
        f"<input type=radio name=kind id=k{i} style='opacity: 0; position: absolute'><label for=k{i}>{i}</label>"
        for i in range(2)
    )
    style = "<style>input:focus + label { outline: 2px solid #0b57d0 }</style>"
    assert complaints(browser, tmp_path, with_(style + group), "unreachable") == []
    assert "not visible" in complaints(browser, tmp_path, with_(group), "unreachable")[0]
