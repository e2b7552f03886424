"""The configuration of a run as its folder keeps it, in this version's words or in older ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from minicaps.training.config import TrainConfig
from minicaps.training.options import options_without_effect

CONFIG = "config.json"  # in the folder of a run
MAX_CONFIG = 1 << 16  # its bytes


def config_of(options: dict[str, Any]) -> TrainConfig:
    """Return the configuration of what ``asdict`` made of one, also in an older version.

    Older ones took options that did nothing, such as the preset of an MLP: they still do nothing.
    """
    if not isinstance(options, dict):
        raise TypeError(f"expected a mapping of options, got {type(options).__name__}")
    idle = options_without_effect(options.get("model", "capsnet"))
    options = {name: value for name, value in options.items() if name not in idle}
    return TrainConfig(**options)


def read_config(folder: str | Path) -> TrainConfig:
    """Read the configuration of the run in `folder`.

    Raises
    ------
    FileNotFoundError
        If the folder holds no run.
    ValueError
        If the file is damaged, or its values are not allowed.
    """
    path = Path(os.path.expanduser(folder)) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: holds no run (no {CONFIG})")
    if path.stat().st_size > MAX_CONFIG:
        raise ValueError(f"{path}: not a configuration ({path.stat().st_size:,} bytes long)")
    try:
        return config_of(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: damaged, or of another version ({error})") from None
