"""Formulas of the site in MathML, which browsers draw by themselves."""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.util import logging

_LOGGER = logging.getLogger(__name__)


def inline(translator: Any, node: nodes.math) -> None:
    """A formula within a line."""
    translator.body.append(_mathml(node, displayed=False))
    raise nodes.SkipNode


def displayed(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own, in a box that scrolls if it is too wide."""
    translator.body.append('<div class="formula" role="group" aria-label="formula" tabindex="0">')
    translator.body.append(_mathml(node, displayed=True))
    translator.body.append("</div>\n")
    raise nodes.SkipNode


def _mathml(node: nodes.Element, *, displayed: bool) -> str:
    """The formula of a node; one that cannot be converted stays LaTeX, with a warning that says where it is."""
    text = re.sub(r"^(?=[\^_])", "{}", node.astext().strip())  # as in $^p$, an exponent of the word before it
    try:
        tree = latex2mathml.tex2mathml(text, as_block=displayed)
    except (MathError, AttributeError, IndexError) as error:  # the last two where the converter runs out of a formula
        _LOGGER.warning("a formula cannot be converted to MathML (%s): %s", error, text, location=node, type="formula")
        return f"<code>{html.escape(text)}</code>"
    return tree if isinstance(tree, str) else tree.toxml()
