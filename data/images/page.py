"""Draw data/images/page.png: the top of the page that ``explore pretrained --html`` writes.

    python data/images/page.py

It takes a picture of the page in a headless Chromium, with the digit that the page begins with.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from minicaps.cli import main

HERE = Path(__file__).parent
SHOWN = (0, 0, 1500, 860)  # of the page, in pixels
WIDTH = 1000  # of the picture

sys.path.insert(0, str(HERE.parents[1] / "tests"))
from browser import Browser, find_browser  # noqa: E402


def draw(picture: Path) -> None:
    """Write the page, open it, and take the picture."""
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        main(["explore", "pretrained", "--html", str(page)])
        with Browser(find_browser(), Path(folder) / "profile") as browser:
            browser.size(SHOWN[2])
            browser.open(page)
            browser.settle()
            browser.screenshot(picture)
    image = Image.open(picture).convert("RGB").crop(SHOWN)
    image = image.resize((WIDTH, round(WIDTH * image.height / image.width)), Image.Resampling.LANCZOS)
    image.quantize(200, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    draw(HERE / "page.png")
