"""The README in Chinese is the English one, part by part: headings, code, commands, numbers and links."""

import difflib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "README.md", ROOT / "README.zh.md"
LANGUAGES = "English · [中文](README.zh.md)", "[English](README.md) · 中文"
FENCE = "```"
BEGINS_A_PART = re.compile(r"#|\||- |```")  # a heading, a row, an item or code; else it goes on

pytestmark = pytest.mark.skipif(
    not PAGES[0].exists(), reason="an installed package is tested without its repository"
)


def parts(text):
    """Return a page as a list of its blocks of code, headings, rows of tables, items and paragraphs."""
    found, in_code, goes_on = [], False, False
    for line in text.splitlines():
        if in_code:
            found[-1] += f"\n{line}"
            in_code = line != FENCE
            goes_on = False
        elif not line.strip():
            goes_on = False
        elif goes_on and not BEGINS_A_PART.match(line):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
            in_code, goes_on = line.startswith(FENCE), True
    return found


def kind(part):
    """Return what a part is: code, a heading of some level, a row, an item or a paragraph."""
    return re.match(r"```\w*|#+ |\||- |", part)[0]


def anchors(page):
    """Return the anchors of a page's headings, in order."""
    headings = [part.lstrip("# ") for part in page if kind(part).startswith("#")]
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def without_words(block):
    """Return a block of code without its comments, and without what explains a name behind two spaces."""
    return [re.split(r" {2,}#? *| # ", line.strip())[0] for line in block.splitlines()]


def links(part):
    return re.findall(r"\]\(([^)\s]+)\)", part)


def contents(part, anchors_here, anchors_there):
    """Return what a translation keeps of a part, by what it is."""
    if not part:
        return {}
    numbers = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?!\w)", re.ASCII)
    if part.startswith(FENCE):
        return {"kind": kind(part), "code": without_words(part), "numbers": sorted(numbers.findall(part))}
    renamed = dict(zip((f"#{each}" for each in anchors_here), anchors_there, strict=False))
    text = re.sub(r"\]\([^)\s]+\)", "]", part)
    return {
        "kind": kind(part),
        "links": [f"#{renamed[link]}" if link in renamed else link for link in links(part)],
        "code": sorted(re.findall(r"`([^`]+)`", text)),
        "numbers": sorted(numbers.findall(re.sub(r"`[^`]+`", "", text))),
        "emphasis": len(re.findall(r"\*\*|(?<!\*)\*(?!\*)", text)),
        "cells": len(re.split(r" \|(?: |$)", part)) if part.startswith("|") else 0,
    }


def faults(english, chinese):
    """Return what of the English page is not in the Chinese one, each with what is to be translated."""
    english, chinese = parts(english), parts(chinese)
    if (english[1], chinese[1]) != LANGUAGES:
        return [f"the third lines are {english[1]!r} and {chinese[1]!r}, expected {LANGUAGES}"]
    english, chinese = ["", *english[2:]], ["", *chinese[2:]]
    names = anchors(english[1:]), anchors(chinese[1:])
    wanted = [contents(part, *names) for part in english]
    kept = [contents(part, names[1], names[1]) for part in chinese]
    matcher = difflib.SequenceMatcher(None, *([str(each) for each in all] for all in (wanted, kept)), False)
    found = []
    for what, i, i_end, j, j_end in matcher.get_opcodes():
        if what == "replace" and i_end - i == j_end - j:
            found += [
                _difference(*each)
                for each in zip(english[i:i_end], chinese[j:j_end], wanted[i:], kept[j:], strict=False)
            ]
        elif what != "equal":
            found += [f"translate, below {chinese[j - 1]!r}: {part!r}" for part in english[i:i_end]]
            found += [f"take out, or correct: {part!r}" for part in chinese[j:j_end]]
    return found


def _difference(english, chinese, wanted, kept):
    names = [name for name in wanted if wanted[name] != kept.get(name)]
    told = "; ".join(f"{name}: {wanted[name]}, in the translation {kept.get(name)}" for name in names)
    return f"translate anew {english!r}, now {chinese!r} ({told})"


@pytest.fixture
def pages():
    return [path.read_text(encoding="utf-8") for path in PAGES]


def test_the_chinese_readme_is_the_english_one(pages):
    assert faults(*pages) == [], "README.zh.md is not what README.md is now"


def test_it_is_chinese(pages):
    """Most parts have Chinese in them: those without are code, names and numbers only."""
    with_words = [part for part in parts(pages[1]) if not part.startswith(FENCE)]
    chinese = [part for part in with_words if re.search(r"[\u4e00-\u9fff]", part)]
    assert len(chinese) > 0.8 * len(with_words)
    assert not re.search(r"[\u4e00-\u9fff]", pages[0].replace("中文", ""))


@pytest.mark.parametrize(
    "old, new",
    [
        ("99.43 ± 0.04", "99.44 ± 0.04"),
        ("python -m minicaps train --preset paper", "python -m minicaps train --preset small"),
        ("| `python -m minicaps bench` |", "| `python -m minicaps gradcheck` |"),
        ("](tests/README.md#do-they-bite)", "](tests/README.md)"),
        ("## 课程\n", ""),
        ("## 课程\n", "### 课程\n"),
        ("#审查你自己的代码)", "#结果)"),
        ("rng=0, dtype=np.float64)", "rng=1, dtype=np.float64)"),
        ("60,000 张真实图像", "60000 张真实图像"),
        ("  fast/  ", "  slow/  "),
        ("退出码：0 表示完成", "退出码：3 表示完成"),
        ("- 主胶囊的压缩函数之前没有 ReLU。\n", ""),
        ("[English](README.md) · 中文", "中文"),
        ("之*和*的", "之和的"),
    ],
)
def test_a_difference_is_noticed(pages, old, new):
    english, chinese = pages
    assert chinese.count(old) >= 1
    assert faults(english, chinese.replace(old, new, 1))


def test_what_was_added_in_english_is_told_as_what_to_translate(pages):
    english, chinese = pages
    for old, added in (
        ("| `python -m minicaps bench` |", "| `python -m minicaps fly` | flies |\n"),
        ("## Lessons", "Another paragraph.\n\n"),
    ):
        found = faults(english.replace(old, added + old, 1), chinese)
        assert found and added.strip() in " ".join(found)
    headings = english.replace("## The map", "## Another heading\n\n## The map", 1)
    assert faults(headings, chinese) == ["translate, below '## 代码地图': '## The map'"]
    assert "- One more." in faults(english + "- One more.\n", chinese)[-1]
