"""Self-contained HTML pages with safe escaping.

A page is a tree of calls. Every string among the children of an element is text and is escaped, unless it is `Html`,
which only the functions of this module create. The allowed tags and attributes exclude scripts, styles and external
files, so content cannot become code or a request.

All pages share one style. It follows the light or dark scheme of the reader's system, and is readable from 375 to 1280
pixels. Tables and figures wider than the window scroll in their own box, which can be reached with the keyboard. The
first link of a page skips to its content. `tests/browser` checks pages in a browser.
"""

from __future__ import annotations

import base64
import html
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

__all__ = [
    "Html",
    "badge",
    "check_png",
    "element",
    "facts",
    "figure",
    "fold",
    "number",
    "page",
    "table",
    "typeset",
    "value",
]

_TAGS = frozenset(
    [
        "a",
        "article",
        "br",
        "caption",
        "code",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "em",
        "figcaption",
        "figure",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "header",
        "img",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "span",
        "strong",
        "sub",
        "summary",
        "sup",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "tr",
        "ul",
    ]
)
_VOID = frozenset({"br", "img"})
_ATTRIBUTES = frozenset(
    (
        *("alt", "aria-label", "class", "decoding", "height", "href", "id", "loading", "open", "role", "scope", "src"),
        *("tabindex", "width"),
    )
)
_LINK = re.compile(r"#|https://")
_IMAGE = "data:image/png;base64,"
_DOTS = 160  # per inch, in the figures of `gsjax.plotting`
_SHOWN = 100  # pixels per inch on the page
_LONG = 100  # characters; longer text gets a wide column
_WIDE = 640  # pixels; a wider figure scrolls rather than shrinks below this width
_CONTENT = "page-content"  # where the skip link leads

# Every colour is a variable, so that the two schemes differ only in these variables.
_STYLE = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --paper: #ffffff; --soft: #5b6470; --rule: #d9dee4; --good: #00664b; --bad: #a63c00;
  --tint: #f5f7f9; --focus: #0b57d0; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4e7eb; --paper: #14171a; --soft: #a3adb8; --rule: #3a424b; --good: #5fd0a5; --bad: #ff9d66;
  --tint: #1e2328; --focus: #8ab4f8; } }
* { box-sizing: border-box; }
html:has(body > nav) { scroll-padding-top: 4rem; }
body { color: var(--ink); background: var(--paper); max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem;
  font: 17px/1.55 Charter, "Bitstream Charter", "Iowan Old Style", Georgia, "Liberation Serif", serif;
  overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; }
h3 { font-size: 1.1rem; margin: 1.6rem 0 .2rem; }
h4 { font-size: 1rem; margin: 1.2rem 0 .2rem; }
header :is(h2, h3, h4) { margin: 0; }
a { color: inherit; text-decoration-color: var(--soft); text-underline-offset: .15em; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
main:focus-visible { outline: none; }
.skip { position: absolute; left: -99rem; top: .4rem; z-index: 2; padding: .4rem .8rem; background: var(--paper); }
.skip:focus { left: .6rem; }
body > nav { position: sticky; top: 0; z-index: 1; display: flex; flex-wrap: wrap; gap: .2rem 1.4rem;
  margin: -2.5rem 0 2rem; padding: .6rem 0; background: var(--paper); border-bottom: 1px solid var(--rule);
  font: .9rem/1.4 system-ui, "Helvetica Neue", Arial, sans-serif; }
p { margin: .4rem 0; max-width: 48rem; }
table, dl { font: .82rem/1.4 system-ui, "Helvetica Neue", Arial, sans-serif; font-variant-numeric: tabular-nums; }
table { border-collapse: collapse; overflow-wrap: break-word; }
th { font-weight: 600; color: var(--soft); text-align: left; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--rule); vertical-align: top; max-width: 26rem; }
tbody th { color: inherit; font-weight: inherit; min-width: 8rem; }
td:last-child, th:last-child { padding-right: 0; }
dl { display: grid; grid-template-columns: minmax(8rem, max-content) minmax(0, 1fr); margin: .5rem 0; }
dt, dd { border-bottom: 1px solid var(--rule); padding: .32rem .9rem .32rem 0; margin: 0; min-width: 0; }
dt { color: var(--soft); font-weight: 600; max-width: 20rem; }
dd { padding-right: 0; }
dd > .scroll, dd > dl { margin: 0; }
dd > dl > :nth-last-child(2), dd > dl > :last-child { border-bottom: 0; }
sup { line-height: 0; }
.number { white-space: nowrap; overflow-wrap: normal; }
.badge { font-weight: 600; white-space: nowrap; }
.soft { color: var(--soft); }
.good { color: var(--good); }
.bad { color: var(--bad); }
.right { text-align: right; white-space: nowrap; }
.long { min-width: 16rem; }
.scroll { overflow-x: auto; margin: .5rem 0; }
.box { background: var(--tint); border-left: 3px solid var(--rule); padding: .5rem 1rem .7rem; margin: 1rem 0; }
article { border-top: 2px solid var(--rule); padding: 1.3rem 0 .6rem; margin-top: 2rem; }
header { display: flex; flex-wrap: wrap; gap: .2rem 1rem; align-items: baseline; }
figure { margin: 1rem 0; }
figcaption { color: var(--soft); }
img { max-width: 100%; height: auto; background: #ffffff; }
details { margin: 1.2rem 0 0; }
details + details { margin-top: .3rem; }
summary { color: var(--soft); cursor: pointer; padding: .15rem 0; }
summary > :is(h2, h3, h4) { display: inline; color: var(--ink); margin: 0; }
details > article { border-top: 0; margin-top: 0; padding-top: .3rem; }
pre { font-size: .75rem; line-height: 1.4; background: var(--tint); padding: .7rem 1rem; margin: 0;
  white-space: pre-wrap; }
@media (max-width: 40rem) {
  body { padding: 1.2rem 1rem 3rem; }
  body > nav { margin-top: -1.2rem; }
  html:has(body > nav) { scroll-padding-top: 5.5rem; }
  dl { grid-template-columns: minmax(0, 1fr); }
  dt { border-bottom: 0; padding-bottom: 0; }
  dd { padding-top: 0; }
  dd > dl { padding-left: 1rem; }
  .wide { max-width: none; width: 40rem; }
}
@media print {
  @page { margin: 16mm 14mm; }
  body { font-size: 10.5pt; padding: 0; max-width: none; }
  .skip, body > nav { display: none; }
  figure, .box, tr { break-inside: avoid; }
  h2, h3, header { break-after: avoid; }
}
"""


class Html(str):
    """HTML for a page; any other string is text.

    Combining it by `+`, `%`, `format` or an f-string gives text again, so nothing becomes HTML by accident.
    """

    __slots__ = ()

    def __html__(self) -> str:
        """The protocol of notebooks and of template engines."""
        return str(self)


Child: TypeAlias = "str | Iterable[Child] | None"


def _escape(text: str) -> str:
    """`text` escaped for HTML; characters that are not valid Unicode, such as single surrogates, by their codes."""
    text = text.encode(errors="backslashreplace").decode()
    return html.escape(re.sub(r"[\0-\x08\x0b\x0c\x0e-\x1f\x7f]", lambda found: f"\\x{ord(found[0]):02x}", text))


def _content(children: Iterable[Child]) -> str:
    parts = []
    for child in children:
        if isinstance(child, Html):
            parts.append(str(child))
        elif isinstance(child, str):
            parts.append(_escape(child))
        elif child is not None:
            parts.append(_content(child))
    return "".join(parts)


def element(tag: str, *children: Child, **attributes: str | int | None) -> Html:
    """An element with its children and attributes.

    Args:
        tag: the name of the tag.
        children: text, which is escaped; `Html`, which is kept; sequences of both; or None, which is ignored.
        attributes: attributes by name, with `class_` for `class` and `aria_label` for `aria-label`; None is left out.
            Links must go to places on the page or to https addresses. Images must be embedded, as by `figure`.

    Raises:
        ValueError: a tag, attribute, link or image that is not allowed; children of a tag that cannot have any.

    >>> element("p", "1 < 2, ", element("strong", "always"), class_="soft")
    '<p class="soft">1 &lt; 2, <strong>always</strong></p>'
    """
    if tag not in _TAGS:
        raise ValueError(f"tag: expected one of {', '.join(sorted(_TAGS))}, got {tag!r}")
    if tag in _VOID and children:
        raise ValueError(f"children: expected none in {tag}, got {len(children)}")
    text = ""
    for key, entry in attributes.items():
        name = key.rstrip("_").replace("_", "-")
        if name not in _ATTRIBUTES:
            raise ValueError(f"attributes: expected {', '.join(sorted(_ATTRIBUTES))}, got {name!r}")
        if entry is None:
            continue
        if name == "href" and not _LINK.match(str(entry)):
            raise ValueError(f"href: expected a place on the page or an https address, got {str(entry)[:60]!r}")
        if name == "src" and not str(entry).startswith(_IMAGE):
            raise ValueError(f"src: expected the content of an image, got {str(entry)[:60]!r}")
        text += f' {name}="{_escape(str(entry))}"'
    return Html(f"<{tag}{text}>" if tag in _VOID else f"<{tag}{text}>{_content(children)}</{tag}>")


def number(value: Any, digits: int = 4) -> str:
    """A float to `digits` significant digits, a bool as yes or no, None as an empty string, anything else by `str`.

    >>> number(1 / 3), number(2e-16), number(True), number("below 1"), number(float("nan"))
    ('0.3333', '2e-16', 'yes', 'below 1', 'nan')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return "" if value is None else str(value)


def typeset(value: Any) -> Html:
    """`number(value)` with typographic minus signs and powers of ten.

    >>> typeset("-2.5e-05")
    '<span class="number">−2.5 × 10<sup>−5</sup></span>'
    """
    text = re.sub(r"(?<![\w-])-(?=\d|inf\b)|(?<=\de)-", "−", _escape(number(value)))
    power = r'<span class="number">\1 × 10<sup>\2\3</sup></span>'
    return Html(re.sub(r"(−?\d[\d.]*)e(?:[+]|(−))0*(\d+)", power, text))


def value(content: Any, label: str = "table") -> Html:
    """A JSON value: numbers are typeset, mappings become `facts`, lists of mappings become tables, text is kept.

    Args:
        content: the value; NaN and infinities are allowed and shown.
        label: the label of tables for screen readers.
    """
    if isinstance(content, Mapping):
        return facts(content)
    if isinstance(content, list) and content and all(isinstance(row, Mapping) for row in content):
        columns = list(dict.fromkeys(key for row in content for key in row))
        rows = [[value(row.get(column, "")) for column in columns] for row in content]
        return table(columns, rows, label=label, head_column=False)
    if isinstance(content, list):  # a matrix has one line per row
        separator = "<br>" if any(isinstance(entry, list) for entry in content) else ", "
        return Html(separator.join(value(entry) for entry in content))
    if isinstance(content, str) and "\n" in content:
        return element("pre", content)
    return typeset(content)


def facts(content: Mapping[str, Any]) -> Html:
    """A list of names with their values, each `Html` or a JSON value."""
    entries = (
        (str(key), entry if isinstance(entry, Html) else value(entry, str(key))) for key, entry in content.items()
    )
    return element("dl", ((element("dt", key), element("dd", shown)) for key, shown in entries))


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    label: str,
    right: Iterable[int] = (),
    head_column: bool = True,
) -> Html:
    """A table in a box that scrolls if the table is too wide.

    Args:
        head: the column headings.
        rows: rows of cells, text or `Html`.
        label: the label of the table for screen readers.
        right: the indices of right-aligned columns.
        head_column: whether the first cell of a row is its heading.
    """
    sides = dict.fromkeys(right, "right")

    def entry(column: int, content: str) -> Html:
        shown = html.unescape(re.sub("<[^>]*>", "", content)) if isinstance(content, Html) else content
        kind = sides.get(column) or ("long" if len(shown) > _LONG else None)
        if column == 0 and head_column:
            return element("th", content, scope="row", class_=kind)
        return element("td", content, class_=kind)

    heads = (element("th", name, scope="col", class_=sides.get(column)) for column, name in enumerate(head))
    body = (element("tr", (entry(column, content) for column, content in enumerate(row))) for row in rows)
    content = element("table", element("thead", element("tr", heads)), element("tbody", body))
    return element("div", content, class_="scroll", role="group", aria_label=label, tabindex=0)


def figure(image: bytes, alt: str, caption: Child = None) -> Html:
    """A figure from the bytes of a PNG file; `alt` describes it for screen readers.

    Raises:
        ValueError: `image` is not a complete PNG file, or `alt` is empty.
    """
    width, height = (pixels * _SHOWN // _DOTS for pixels in check_png(image))
    if not alt.strip():
        raise ValueError("alt: expected what the figure shows, got nothing")
    source = _IMAGE + base64.b64encode(image).decode()
    wide = width > _WIDE
    lazily = {"loading": "lazy", "decoding": "async"}  # a page of many figures is decoded where the reader is
    shown = element("img", alt=alt, width=width, height=height, class_="wide" if wide else None, **lazily, src=source)
    if wide:
        shown = element("div", shown, class_="scroll", role="group", aria_label=alt, tabindex=0)
    return element("figure", shown, None if caption is None else element("figcaption", caption))


def check_png(image: bytes) -> tuple[int, int]:
    """Width and height in pixels of a PNG file, after comparing the checksums of all its chunks.

    Raises:
        ValueError: the file is not a PNG file, or is not complete.
    """
    if image[:8] != b"\x89PNG\r\n\x1a\n" or image[12:16] != b"IHDR":
        raise ValueError("no PNG file")
    offset, kind = 8, b""
    while kind != b"IEND":
        size, kind = int.from_bytes(image[offset : offset + 4]), image[offset + 4 : offset + 8]
        end = offset + 8 + size
        if len(image) < end + 4 or zlib.crc32(image[offset + 4 : end]) != int.from_bytes(image[end : end + 4]):
            raise ValueError(f"no whole PNG file: it is cut off or changed from byte {offset} on")
        offset = end + 4
    return int.from_bytes(image[16:20]), int.from_bytes(image[20:24])


def badge(text: str, good: bool | None = None) -> Html:
    """A short verdict with a mark and a colour, or with neither if `good` is None."""
    mark, kind = {True: ("✓ ", "good"), False: ("✗ ", "bad"), None: ("", "soft")}[good]
    return element("span", mark, text, class_=f"badge {kind}")


def fold(title: Child, *children: Child, id: str | None = None) -> Html:
    """Content that is hidden until the reader opens it, under a title; `id` is its place on the page."""
    return element("details", element("summary", title), *children, id=id)


def page(title: str, *children: Child, sections: Mapping[str, str] | None = None) -> str:
    """A complete page.

    Args:
        title: the title of the window and the first heading.
        children: the content, as for `element`.
        sections: places on the page (`id`) by their names, for a bar of links that stays at the top of the window.

    >>> print(page("Two", "1 + 1"))
    <!DOCTYPE html>
    <html lang="en">
    ...
    <body>
    <a class="skip" href="#page-content">Skip to the content</a>
    <main id="page-content" tabindex="-1">
    <h1>Two</h1>
    1 + 1
    </main>
    </body>
    </html>
    """
    skip = element("a", "Skip to the content", class_="skip", href=f"#{_CONTENT}")
    links = [element("a", name, href=f"#{place}") for name, place in (sections or {}).items()]
    bar = element("nav", links, aria_label="Sections") + "\n" if links else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
{skip}
{bar}<main id="{_CONTENT}" tabindex="-1">
{element("h1", title)}
{_content(children)}
</main>
</body>
</html>
"""
