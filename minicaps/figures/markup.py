"""A page of HTML that needs nothing else: what is text stays text, and figures lie in the page."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

CONTENT = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"  # the policy: no script, no network
SHORT = 20  # characters of a cell that is kept in one line
CSS = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #666; --line: #ddd; --box: #f4f4f2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --paper: #161616; --faint: #a3a3a3; --line: #3a3a3a; --box: #222 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; font: 16px/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: anywhere }
h1 { font-size: 1.5rem; line-height: 1.25 } h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line) }
p, li { max-width: 45rem } .faint { color: var(--faint) }
pre { padding: .75rem; background: var(--box); overflow-x: auto }
.wide { overflow-x: auto } table { border-collapse: collapse; margin: 1rem 0; font-size: .9rem }
th, td { padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top }
td.number, th.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
th, td.short { overflow-wrap: normal } td.short { white-space: nowrap }
figure { margin: 1rem 0 } figure img { display: block; height: auto; width: 100%; min-width: 34rem;
  max-width: 54rem; background: #fff; padding: .5rem; border-radius: .25rem }
@media print { body { max-width: none } figure img { min-width: 0 } }
"""


class Markup(str):
    """HTML, as ``element`` makes it; any other text is escaped where it is put into a page."""


def escaped(text: object) -> Markup:
    """Return text as it is written in HTML; what cannot be printed, such as a lone surrogate, is �."""
    if isinstance(text, Markup):
        return text
    plain = "".join(each if each.isprintable() or each == "\n" else "�" for each in str(text))
    return Markup(html.escape(plain))


def element(name: str, /, *children: object, **attributes: str) -> Markup:
    """Return an element with children and attributes, both escaped; ``class_`` stands for ``class``."""
    names = {key: key.rstrip("_").replace("_", "-") for key in attributes}
    given = "".join(f' {names[key]}="{escaped(value)}"' for key, value in attributes.items())
    inner = "".join(map(escaped, children))
    return Markup(f"<{name}{given}>" if name in ("img", "meta") else f"<{name}{given}>{inner}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Return parts of a page one after another."""
    return Markup("\n".join(map(escaped, parts)))


def table(head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()) -> Markup:
    """Return a table; the columns of these numbers are set to the right. Without a head it has none."""

    def look(k: int, cell: object) -> str:
        return "number" if k in numbers else "short" if len(str(cell)) < SHORT else "long"

    def row(kind: str, cells: Sequence[object]) -> Markup:
        return element("tr", *(element(kind, cell, class_=look(k, cell)) for k, cell in enumerate(cells)))

    lines = [row("th", head)] if head else []
    return element("div", element("table", *lines, *(row("td", cells) for cells in rows)), class_="wide")


def picture(path: Path, text: str) -> Markup:
    """Return a PNG file as a part of the page; `text` says what it shows to those who do not see it."""
    content = base64.b64encode(path.read_bytes()).decode()
    image = element("img", src=Markup(f"data:image/png;base64,{content}"), alt=text)
    return element("figure", image, class_="wide")


def document(title: str, *parts: object) -> str:
    """Return a whole page."""
    head = joined(
        [
            Markup('<meta charset="utf-8">'),
            element("meta", http_equiv="Content-Security-Policy", content=Markup(CONTENT)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", title),
            element("style", Markup(CSS)),
        ]
    )
    body = element("body", Markup("\n"), joined(parts), Markup("\n"))
    return f'<!DOCTYPE html>\n<html lang="en">\n<head>\n{head}\n</head>\n{body}\n</html>\n'
