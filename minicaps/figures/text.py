"""Names as they are drawn: whatever they contain, one line of characters that the fonts have."""

from __future__ import annotations

import functools
import itertools
import unicodedata

from matplotlib import font_manager

MAX_LENGTH = 20  # of a name, in narrow characters
MAX_DIGITS = 4  # at its end, which are kept when it is shortened
NAMELESS = "(empty)"
FONT = "DejaVu Sans"  # comes with matplotlib
MORE_FONTS = (  # which have Chinese, Japanese and Korean, on some machine or other
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
    "Arial Unicode MS",
)


@functools.cache
def font_families() -> list[str]:
    """Return the fonts that text is drawn with, in order; those after the first have what it lacks."""
    installed = set(font_manager.get_font_names())
    return [FONT, *(name for name in MORE_FONTS if name in installed)]


def as_text(name: str, maximum: int = MAX_LENGTH) -> str:
    """Return a name as it can be drawn, in one line of at most `maximum` narrow characters.

    What the fonts lack is written by its number, as in ``\\u72d7``, and bytes that no text encodes as �.
    Control characters are left out, and a dollar is no sign of mathematics. Of a longer name its
    beginning is kept, and the number at its end, with "…" for the rest.

    Parameters
    ----------
    name : str
        From a user: a class, which may be the name of any folder.
    maximum : int
        1 or more; wide characters, as those of Chinese, count twice.
    """
    pieces = [_drawn(character) for character in unicodedata.normalize("NFC", " ".join(str(name).split()))]
    if not any(pieces):
        return NAMELESS[:maximum]
    if sum(map(_width, pieces)) <= maximum:
        return _escaped(pieces)
    end = ""
    while pieces[-1].isdecimal() and len(end) < min(MAX_DIGITS, maximum // 2):
        end = pieces.pop() + end
    room, widths = maximum - 1 - len(end), itertools.accumulate(map(_width, pieces))
    kept = [piece for piece, width in zip(pieces, widths, strict=True) if width <= room]
    return f"{_escaped(kept)}…{end}"


def _escaped(pieces: list[str]) -> str:
    """Join the pieces of a name so that matplotlib draws "$" as a dollar."""
    return "".join(pieces).replace("$", r"\$")


def _drawn(character: str) -> str:
    """Return what stands for a character in a figure, if anything does."""
    category = unicodedata.category(character)
    if category == "Cs":
        return "�"
    if category in ("Cc", "Cf") or "VARIATION SELECTOR" in unicodedata.name(character, ""):
        return ""
    return character if _has_glyph(character) else character.encode("unicode_escape").decode()


def _width(piece: str) -> int:
    """Return the width of what stands for a character, in narrow characters."""
    return sum(2 if unicodedata.east_asian_width(each) in "WF" else 1 for each in piece)


@functools.cache
def _has_glyph(character: str) -> bool:
    paths = (font_manager.findfont(family) for family in font_families())
    return any(font_manager.get_font(path).get_char_index(ord(character)) for path in paths)


def with_article(name: str) -> str:
    """Return "a length", "an activation"."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
