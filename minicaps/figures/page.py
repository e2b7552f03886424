"""The page of ``explore --html``: a trained CapsNet in one file that any browser opens, without a network.

The forward pass runs in the page, in the JavaScript of the folder ``page`` beside this file.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from minicaps.datasets import Dataset
from minicaps.figures.page_data import describe_network, look_at_test_images, pack_weights
from minicaps.networks import CapsNet, Network, files

SOURCES = Path(__file__).parent / "page"
SCRIPTS = (  # main.js, which starts the page, at the end
    "numbers", "weights", "couplings", "capsnet", "principal", "picture", "state", "elements", "paint", "pen",
    "file", "look", "arithmetic", "view", "routing", "main",
)  # fmt: skip


def write_page(
    path: str | Path, network: Network, dataset: Dataset, class_names: Sequence[str], number: int = 0
) -> None:
    """Write a page that runs a trained CapsNet in the browser: one HTML file that loads nothing.

    It holds the weights in half precision (float16), some test images, and the forward pass in JavaScript.

    Parameters
    ----------
    path : path
        Its folder is made if it is missing.
    network : CapsNet
        With dynamic routing; a decoder is shown if there is one.
    dataset : Dataset
        Its test images give the sliders their ranges, and some stand in the page.
    class_names : sequence of str
    number : int
        The test image that the page begins with.

    Raises
    ------
    ValueError
        If the page cannot run the network; the message says which option it lacks.
    """
    description = describe_network(network)
    assert isinstance(network, CapsNet)  # or it would not have been described
    data = {
        "network": description,
        "params": pack_weights(network),
        "class_names": list(class_names),
        **look_at_test_images(network, dataset, number),
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, fill_template(data))


def fill_template(data: dict[str, Any]) -> str:
    """Return the page: nothing in it is loaded, and a policy tells the browser to load nothing."""
    style, page = _source("page.css"), Template(_source("page.html"))
    script = "\n".join(_source(f"{name}.js") for name in SCRIPTS)
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_hash(script)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")  # no name of a class ends it
    return page.substitute(policy=policy, style=style, data=text, script=script)


def _source(name: str) -> str:
    return (SOURCES / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return what a policy calls a script or style that stands in the page."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
