"""On what a network was trained: the versions of what computes, and the machine."""

from __future__ import annotations

import platform

import matplotlib
import numpy as np

from minicaps import __version__
from minicaps.fast import thread_count


def versions_and_machine() -> dict[str, str]:
    """Return by name the versions of what this process computes with, and what it runs on."""
    blas = np.show_config(mode="dicts").get("Build Dependencies", {}).get("blas", {})
    return {
        "minicaps": __version__,
        "Python": platform.python_version(),
        "NumPy": f"{np.__version__}, with BLAS: {blas.get('name', 'unknown')} {blas.get('version', '')}",
        "matplotlib": matplotlib.__version__,
        "system": platform.platform(),
        "processor": f"{processor()}; {thread_count()} threads or processes",
    }


def processor() -> str:
    """Return the name of the processor, as far as the system knows it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return next(filter(None, [*names, platform.processor(), platform.machine()]), "unknown")
