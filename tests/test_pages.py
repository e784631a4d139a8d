"""Pages: text stays text, nothing else is loaded, and pages are accessible."""

from __future__ import annotations

import html.parser
import io
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gsjax import pages, plotting
from gsjax.pages import Html, element

VOID = ("meta", "img", "br")


class Reader(html.parser.HTMLParser):
    """What a browser reads from a page: tags with their attributes, style and text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.open, self.text, self.style = [], [], "", ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "style":
            self.style += data
        else:
            self.text += data


def png(width=400, height=300):
    drawn = io.BytesIO()
    Image.new("RGB", (width, height), (10, 200, 30)).save(drawn, "PNG")
    return drawn.getvalue()


# Text with markup, as in names, errors and files.
MARKUP = st.sampled_from(
    ["<script>alert(1)</script>", "</td></table>", "<!--", "-->", "&amp;", "&", '"', "'", "<", ">", "]]>", "</style>",
     "<img src=x onerror=alert(1)>", "javascript:alert(1)", "\\", "{", "}", "λ²"]
)  # fmt: skip
OTHER = st.characters(exclude_characters="-−", exclude_categories=["Cc", "Cs", "Nd"])  # no numbers
TEXT = st.lists(MARKUP | st.text(OTHER, max_size=5), max_size=6).map(lambda parts: f"⟦{''.join(parts)[:80]}⟧")


def everywhere(text):
    """A page with `text` in every place that takes text."""
    rows = [[text, element("span", text, class_=text)], [Html("<em>") + text, f"{element('p')}{text}"]]
    content = {text: text, f"{text}2": [{text: text}], f"{text}3": [[text, text]], f"{text}4": f"{text}\n"}
    return pages.page(
        text,
        text,
        element("a", text, id=text, href=f"#{text}"),
        pages.table([text, text], rows, label=text),
        pages.facts({text: text}),
        pages.value(content, text),
        pages.figure(png(), f"alt {text}", text),
        pages.figure(png(3000), f"alt {text}", [text]),
        pages.badge(text, True),
        pages.badge(text),
        pages.fold(text, text),
        pages.typeset(text),
    )


PLAIN = Reader(everywhere("⟦x⟧"))


@given(TEXT)
def test_text_is_shown_unchanged_and_does_not_become_markup(text):
    reader = Reader(everywhere(text))
    assert [(tag, list(found)) for tag, found in reader.tags] == [(tag, list(found)) for tag, found in PLAIN.tags]
    for (_, found), (_, plain) in zip(reader.tags, PLAIN.tags, strict=True):
        assert found == {key: str(value).replace("⟦x⟧", text) for key, value in plain.items()}
    assert reader.text == PLAIN.text.replace("⟦x⟧", text)
    assert reader.style == PLAIN.style
    assert reader.text.count(text) == 29


def test_only_elements_are_html_and_concatenations_are_text():
    made = element("em", "a")
    assert isinstance(made, Html)
    assert made.__html__() == "<em>a</em>"
    for text in (made + "<b>", f"{made}<b>", "%s<b>" % made, "<b>".join([made, made])):  # noqa: UP031
        assert not isinstance(text, Html)
        assert element("p", text) == f"<p>{text.replace('<', '&lt;').replace('>', '&gt;')}</p>"
    assert element("p", made, None, [made, ["<"]]) == "<p><em>a</em><em>a</em>&lt;</p>"


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        *((lambda tag=tag: element(tag, "x"), rf"^tag: expected one of .*, got '{tag}'")
          for tag in ("script", "style", "link", "iframe", "object", "embed", "svg", "form", "base", "p id", "P>")),
        *((lambda name=name: element("p", "x", **{name: "x"}), "^attributes: expected .*, got")
          for name in ("onclick", "style", "srcset", "action", "x y", 'a"', "data")),
        *((lambda href=href: element("a", "x", href=href), "^href: expected a place on the page or an https address")
          for href in ("javascript:alert(1)", " #a", "data:text/html,x", "http://a", "//a", "", "a.html")),
        *((lambda src=src: element("img", alt="x", src=src), "^src: expected the content of an image")
          for src in ("https://a/b.png", "a.png", "data:image/svg+xml,x", "data:text/html,x")),
        (lambda: element("img", "x"), "^children: expected none in img, got 1"),
        (lambda: pages.figure(png(), " "), "^alt: expected what the figure shows"),
        (lambda: pages.figure(b"GIF89a", "x"), "no PNG file"),
        (lambda: pages.figure(png()[:-20], "x"), "cut off or changed"),
    ],
)  # fmt: skip
def test_other_elements_and_attributes_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_a_page_loads_nothing_and_every_figure_has_an_alternative_text():
    text = everywhere("https://example.org/")
    reader = Reader(text)
    assert not re.search(r"url\(|@import|@font-face|expression\(", reader.style)
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 2
    for image in images:
        assert image["alt"]
        assert image["src"].startswith("data:image/png;base64,")
    assert {tag for tag, _ in reader.tags} & {"script", "link", "iframe", "object", "embed", "svg"} == set()


def test_a_figure_keeps_its_pixels_and_has_the_size_of_its_inches():
    figure, _ = plotting.panels()
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    [(_, image)] = [entry for entry in Reader(pages.figure(drawn.getvalue(), "a")).tags if entry[0] == "img"]
    with Image.open(io.BytesIO(drawn.getvalue())) as opened:
        assert pages.check_png(drawn.getvalue()) == opened.size
    inches = figure.get_size_inches()
    assert np.abs(np.array([int(image["width"]), int(image["height"])]) - 100 * inches).max() <= 1


def test_scrolling_boxes_have_a_name_and_keyboard_focus():
    boxes = [attributes for _, attributes in PLAIN.tags if attributes.get("class") == "scroll"]
    assert len(boxes) == 3  # two tables and the wide figure
    for box in boxes:
        assert (box["tabindex"], box["role"]) == ("0", "group")
        assert box["aria-label"].strip()


def test_cells_with_long_text_are_marked():
    cells = ["<" * 100, "<" * 101, pages.typeset("<" * 100), pages.typeset("<" * 101), element("strong", "x" * 99)]
    tags = Reader(pages.table(["a"] * 5, [cells], label="a", head_column=False)).tags
    assert [found.get("class") for tag, found in tags if tag == "td"] == [None, "long", None, "long", None]


def colours():
    """The variables of the light scheme and those of the dark one."""
    light, dark = re.findall(r":root \{(.*?)\}", PLAIN.style, re.DOTALL)
    return tuple(dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", scheme)) for scheme in (light, dark))


def test_light_and_dark_define_the_same_variables_and_use_no_other_colour():
    assert "@media (prefers-color-scheme: dark) { :root {" in PLAIN.style
    light, dark = colours()
    assert light.keys() == dark.keys() == set(re.findall(r"var\(--(\w+)\)", PLAIN.style))
    assert all(light[name] != dark[name] for name in light)
    rest = re.sub(r"--\w+: #[0-9a-f]{6};", "", PLAIN.style)
    assert re.findall(r"#[0-9a-f]{3,8}\b|rgba?\(|hsla?\(", rest) == ["#ffffff"]  # the background of figures


def luminance(colour):
    """Relative luminance as WCAG 2.2 defines it."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_contrast_is_that_of_wcag_aa(scheme):
    found = colours()[scheme]
    for background in ("paper", "tint"):
        for name, least in {"ink": 7, "soft": 4.5, "good": 4.5, "bad": 4.5, "focus": 3}.items():
            low, high = sorted((luminance(found[name]), luminance(found[background])))
            assert (high + 0.05) / (low + 0.05) >= least, (name, background)


@pytest.mark.parametrize(
    ("content", "shown"),
    [
        (-2.5e-05, "−2.5 × 10−5"),
        (1e20, "1 × 1020"),
        (float("nan"), "nan"),
        (float("-inf"), "−inf"),
        ([1, [2.0, 3.0]], "12, 3"),
        (None, ""),
        (True, "yes"),
        ({"a": [{"b": 1}, {"c": "x-1"}]}, "abc1x-1"),
    ],
)
def test_values_of_json_are_typeset(content, shown):
    assert Reader(pages.value(content)).text == shown


def test_invalid_and_control_characters_are_escaped():
    page = pages.page("a\udce9", "b\0\x1b[31m")
    page.encode()
    assert Reader(page).text.replace("Skip to the content", "").split() == ["a\\udce9", "a\\udce9", "b\\x00\\x1b[31m"]


def test_a_page_begins_with_a_link_to_its_content_and_links_to_its_sections():
    reader = Reader(pages.page("a", element("h2", "<b>", id="b"), sections={"<b>": "b"}))
    links = [attributes["href"] for tag, attributes in reader.tags if tag == "a"]
    [main] = [attributes["id"] for tag, attributes in reader.tags if tag == "main"]
    assert links == [f"#{main}", "#b"]
    assert [tag for tag, _ in reader.tags if tag in ("a", "nav", "main")] == ["a", "nav", "a", "main"]
    assert "nav" not in [tag for tag, _ in Reader(pages.page("a")).tags]


def test_images_are_decoded_where_the_reader_is():
    [image] = [attributes for tag, attributes in Reader(pages.figure(png(), "a")).tags if tag == "img"]
    assert (image["loading"], image["decoding"]) == ("lazy", "async")


def test_a_fold_has_a_title_of_elements_and_a_place():
    reader = Reader(pages.fold([element("h4", "a"), " b"], "c", id="d"))
    assert [tag for tag, _ in reader.tags] == ["details", "summary", "h4"]
    assert (reader.tags[0][1], reader.text) == ({"id": "d"}, "a bc")
