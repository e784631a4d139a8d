"""Checks of a page in a browser. Each gives a list of complaints, empty if there is nothing to complain about."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response

WIDTHS = (375, 1280)
SCHEMES = ("light", "dark")
HEIGHT = 900

_LOCAL = ("file", "data", "blob", "about")
_TABS = 5000  # a page with more stops than that is not usable with a keyboard

# What can be operated, and must be reachable. Of a group of radio buttons Tab reaches one, and of a row of tabs; arrow
# keys reach the others.
_SCRIPT = """
window.looked = (() => {
  const natives = "a[href], area[href], button, input:not([type=hidden]), select, textarea, summary, " +
    "[contenteditable=''], [contenteditable=true], audio[controls], video[controls], [onclick], " +
    "[role=button], [role=link], [role=checkbox], [role=switch], [role=slider], [role=textbox], [role=combobox]";
  const seen = [];  // elements that have had the focus, in order
  let last = null;  // the element that has it, and its look
  const described = (element) => {
    const classes = (element.getAttribute("class") || "").trim();  // also of formulas, whose className is no string
    const named = element.id ? "#" + element.id : classes ? "." + classes.split(/\\s+/).join(".") : "";
    const text = (element.getAttribute("aria-label") || element.alt || element.textContent || "").trim();
    return element.localName + named + (text ? " '" + text.replace(/\\s+/g, " ").slice(0, 40) + "'" : "");
  };
  const rendered = (element) => element.checkVisibility({visibilityProperty: true, contentVisibilityAuto: false})
    && [...element.getClientRects()].some((box) => box.width > 0 && box.height > 0);
  const operable = (element) => !element.matches(":disabled") && !element.closest("[inert], [aria-hidden=true]");
  const wide = (element) => {  // scrolls sideways by itself
    const style = getComputedStyle(element);
    return element !== document.documentElement && element !== document.body
      && /auto|scroll/.test(style.overflowX) && element.scrollWidth > element.clientWidth + 1;
  };
  const interactive = () => [...document.querySelectorAll("body *")].filter((element) =>
    (element.matches(natives) || element.tabIndex >= 0 || wide(element)) && rendered(element) && operable(element));
  // A radio button or checkbox may be drawn by its label, and itself be transparent.
  const drawn = (element) => [element, ...(element.labels || [])];
  const shown = (element) => drawn(element).filter((part) => part.checkVisibility({opacityProperty: true}));
  const look = (element) => shown(element).map((part) => ["", "::before", "::after"].map((pseudo) => {
    const style = getComputedStyle(part, pseudo || null);
    return [style.outlineStyle === "none" ? "" : style.outline, style.boxShadow, style.border, style.backgroundColor,
      style.color, style.textDecoration, style.opacity, style.transform].join("|");
  }).join("&")).join("&");
  const outlined = (element) => shown(element).some((part) => {
    const style = getComputedStyle(part);
    const transparent = /rgba\\(.*, 0\\)|transparent/.test(style.outlineColor);
    const sized = [...part.getClientRects()].some((box) => box.width > 0 && box.height > 0);
    return sized && style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1 && !transparent;
  });
  // The boxes of an element, and that of a link which covers a card: of the card, by a part that it generates.
  const boxes = (element) => {
    const after = getComputedStyle(element, "::after");
    const card = after.position === "absolute" && after.content !== "none" ? element.offsetParent : null;
    return [...element.getClientRects(), ...(card ? card.getClientRects() : [])];
  };
  // Some point of the element is inside the window, and nothing else is on top of it.
  const uncovered = (element) => shown(element).some((part) => boxes(part).some((box) => {
    const left = Math.max(box.left, 0), right = Math.min(box.right, innerWidth);
    const top = Math.max(box.top, 0), bottom = Math.min(box.bottom, innerHeight);
    if (right - left < 1 || bottom - top < 1) return false;
    return [0.5, 0.1, 0.9].some((x) => [0.5, 0.1, 0.9].some((y) => {
      const hit = document.elementFromPoint(left + x * (right - left), top + y * (bottom - top));
      return hit !== null && (part.contains(hit) || (hit.contains(part) && hit !== document.body));
    }));
  }));
  return {
    described,
    // Called after each press of Tab. It says where the focus is, and what is wrong with how that looks.
    step() {
      const element = document.activeElement, wrong = [];
      if (last !== null && last.element !== element && !last.outlined && look(last.element) === last.look) {
        wrong.push("focus is not visible on " + described(last.element));
      }
      if (element === null || element === document.body || seen.includes(element)) {
        const stuck = last !== null && last.element === element;
        last = null;
        return {ended: true, stuck: stuck ? described(element) : null, wrong};
      }
      seen.push(element);
      last = {element, look: look(element), outlined: outlined(element)};
      if (!uncovered(element)) wrong.push("hidden while it has the focus: " + described(element));
      return {ended: false, fold: element.localName === "summary" ? element.parentElement.open : null, wrong};
    },
    opened: () => document.activeElement.parentElement.open,
    missed() {
      const radios = new Set(seen.filter((one) => one.type === "radio").map((one) => one.name));
      const reached = (element) => seen.includes(element)
        || (element.type === "radio" && radios.has(element.name))
        || (wide(element) && !element.matches(natives) && !element.hasAttribute("tabindex")
            && seen.some((one) => element.contains(one)));
      return interactive().filter((element) => !reached(element)).map(described);
    },
    overflowing() {
      const root = document.documentElement, room = root.clientWidth;
      if (root.scrollWidth <= room) return [];
      const clipped = (element) => getComputedStyle(element).overflowX !== "visible";
      const over = [...document.querySelectorAll("body *")].filter((element) => {
        const box = element.getBoundingClientRect(), inside = clipped(element) ? 0 : element.scrollWidth;
        return rendered(element) && Math.max(box.right, box.left + inside) > room + 0.5;
      });
      const inner = over.filter((element) => !over.some((other) => other !== element && element.contains(other)));
      return [`${root.scrollWidth} pixels in a window of ${room}: ${inner.slice(0, 5).map(described).join(", ")}`];
    },
    async undrawn() {
      const wrong = [];
      for (const image of document.images) {
        if (image.closest("details:not([open])")) continue;
        if (!rendered(image)) { wrong.push("hidden: " + described(image)); continue; }
        image.scrollIntoView({block: "center", behavior: "instant"});
        try { await image.decode(); } catch { /* it stays without a size */ }
        if (!image.complete || image.naturalWidth === 0) wrong.push("not drawn: " + described(image));
      }
      scrollTo(0, 0);
      return wrong;
    },
    unfold() {
      document.querySelectorAll("details").forEach((fold) => { fold.open = true; });
    },
    // Opens the smallest fold of each kind, with those around it: folds of one kind have the same tags and classes.
    unfold_kinds() {
      const kinds = new Map(), size = (fold) => fold.querySelectorAll("*").length;
      for (const fold of document.querySelectorAll("details")) {
        const kind = looked.kind(fold);
        if (!kinds.has(kind) || size(fold) < size(kinds.get(kind))) kinds.set(kind, fold);
      }
      for (let fold of kinds.values()) {
        for (; fold; fold = fold.parentElement.closest("details")) fold.open = true;
      }
      return kinds.size;
    },
    // Takes out of the page what closed folds hide, and what repeats: of the rows of a table, all but three of each
    // kind, and the bytes of images. axe-core would spend nearly all of its time there. `attach` puts it back.
    removed: [],
    emptied: [],
    detach() {
      const remove = (node) => {
        const mark = document.createComment("");
        node.replaceWith(mark);
        this.removed.push([mark, node]);
      };
      for (const fold of document.querySelectorAll("details:not([open])")) {
        [...fold.childNodes].filter((node) => node.localName !== "summary").forEach(remove);
      }
      for (const image of document.querySelectorAll("img[src^='data:']")) {
        this.emptied.push([image, image.src]);
        image.src = "data:image/gif;base64,R0lGODlhAQABAAAAACw=";
      }
      for (const body of document.querySelectorAll("tbody")) {
        const counts = new Map();
        for (const row of [...body.rows]) {
          const kind = looked.kind(row), count = (counts.get(kind) || 0) + 1;
          counts.set(kind, count);
          if (count > 3) remove(row);
        }
      }
    },
    attach() {
      for (const [mark, node] of this.removed.reverse()) mark.replaceWith(node);
      this.emptied.forEach(([image, source]) => { image.src = source; });
      this.removed = [];
      this.emptied = [];
    },
    kind(element) {
      const parts = [...element.querySelectorAll("*")].map((part) => {
        const styled = part.hasAttribute("style") ? part.getAttribute("style") : "";
        return `${part.localName}.${part.getAttribute("class")}${styled}`;
      });
      return [...new Set(parts)].sort().join(" ");
    },
    fold() {
      document.querySelectorAll("details").forEach((fold) => { fold.open = false; });
    },
  };
})()
"""


class Visit(NamedTuple):
    """An open page, and the complaints about its console and its requests so far."""

    page: Page
    heard: list[str]


@contextlib.contextmanager
def visit(browser: Browser, url: str, width: int, scheme: Any) -> Iterator[Visit]:
    """Opens `url` in a window of its own, and listens to what goes wrong from the first request on."""
    heard: list[str] = []
    own = urlsplit(url)

    def console(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            heard.append(f"console {message.type}: {message.text}")

    def request(sent: Request) -> None:
        to = urlsplit(sent.url)
        if to.scheme not in _LOCAL and to.netloc != own.netloc:
            heard.append(f"request to another host: {sent.url}")

    def response(received: Response) -> None:
        if received.status >= 400:
            heard.append(f"request failed: {received.url} ({received.status})")

    def failed(sent: Request) -> None:
        heard.append(f"request failed: {sent.url[:200]} ({sent.failure})")

    size: Any = {"width": width, "height": HEIGHT}
    with browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce") as context:
        page = context.new_page()
        page.on("console", console)
        page.on("pageerror", lambda error: heard.append(f"uncaught error: {error}"))
        page.on("request", request)
        page.on("response", response)
        page.on("requestfailed", failed)
        page.goto(url, wait_until="load" if own.scheme == "file" else "networkidle")
        # A transition would show the look of an element before the focus.
        page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
        page.evaluate(_SCRIPT)
        yield Visit(page, heard)


def undrawn(page: Page) -> list[str]:
    """Images that are not drawn, or hidden without being folded; folded ones are looked at last."""
    found = page.evaluate("looked.undrawn()")
    page.evaluate("looked.unfold()")
    found += [line for line in page.evaluate("looked.undrawn()") if line not in found]
    return found


def overflowing(page: Page) -> list[str]:
    """What makes the page scroll sideways, with all folds closed and with all open."""
    page.evaluate("looked.fold()")
    closed = page.evaluate("looked.overflowing()")
    page.evaluate("looked.unfold()")
    return closed or [f"unfolded: {line}" for line in page.evaluate("looked.overflowing()")]


def unreachable(page: Page) -> list[str]:
    """Controls that Tab does not reach, whose focus is not visible, or folds that Enter does not open.

    Walks through the whole page with Tab. Every fold is opened with Enter when the focus is on it.
    """
    page.evaluate("looked.fold()")
    page.evaluate("scrollTo(0, 0)")
    found: list[str] = []
    for _ in range(_TABS):
        page.keyboard.press("Tab")
        state = page.evaluate("looked.step()")
        found += state["wrong"]
        if state["ended"]:
            if state["stuck"]:
                found.append(f"focus cannot leave {state['stuck']}")
            break
        if state["fold"] is False:
            page.keyboard.press("Enter")
            if not page.evaluate("looked.opened()"):
                found.append(f"Enter does not open {page.evaluate('looked.described(document.activeElement)')}")
    else:
        found.append(f"more than {_TABS} stops")
    return found + [f"Tab does not reach {name}" for name in page.evaluate("looked.missed()")]


def violations(page: Page) -> list[str]:
    """What axe-core finds, with all of its rules: with all folds closed, then with a fold of each kind open."""
    page.evaluate("looked.fold()")
    closed = _violations(page)
    if closed or not page.evaluate("looked.unfold_kinds()"):
        return closed
    return [f"unfolded: {line}" for line in _violations(page)]


def _violations(page: Page) -> list[str]:
    page.evaluate("looked.detach()")
    # Without `preload` it does not fetch the style sheets, which only rules use that are off anyway, and whose
    # imports it looks for in the wrong place.
    options = {"resultTypes": ["violations"], "preload": False}
    found = Axe().run(page, options=options).response["violations"]
    page.evaluate("looked.attach()")
    return [
        f"{rule['id']}: {rule['help']}: {'; '.join(_node(node) for node in rule['nodes'][:3])}"
        + (f" and {len(rule['nodes']) - 3} more" if len(rule["nodes"]) > 3 else "")
        for rule in found
    ]


def _node(node: dict[str, Any]) -> str:
    reasons = [each["message"] for kind in ("any", "all", "none") for each in node[kind]]
    return f"{node['html'][:120]} ({'; '.join(reasons)[:200]})"


def photograph(page: Page, folder: Path, name: str, *, part: int = 5000) -> None:
    """Pictures of the whole page from top to bottom, each at most `part` pixels high."""
    folder.mkdir(parents=True, exist_ok=True)
    page.evaluate("looked.fold(); looked.undrawn()")  # figures far down are drawn only when somebody looks
    page.wait_for_timeout(100)
    width, height = page.evaluate("[document.documentElement.clientWidth, document.documentElement.scrollHeight]")
    for number, top in enumerate(range(0, height, part)):
        clip: Any = {"x": 0, "y": top, "width": width, "height": min(part, height - top)}
        page.screenshot(path=folder / f"{name}-{number}.png", clip=clip, full_page=True)
