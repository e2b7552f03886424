"""Finding what there is to check: every layer, loss and network, with the examples it gives."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minicaps.layers import Example, Layer, Loss
from minicaps.proof import capsule_examples, matrix_examples  # noqa: F401, they register their examples
from minicaps.proof.examples import EXAMPLES
from minicaps.proof.gradcheck import gradcheck
from minicaps.proof.report import Report


def package_modules() -> list[ModuleType]:
    """Import and return every module of minicaps, those in its folders too."""
    import minicaps

    names = [info.name for info in pkgutil.walk_packages(minicaps.__path__, "minicaps.")]
    return [importlib.import_module(name) for name in names if name != "minicaps.__main__"]


def module_from_path(path: str | Path) -> ModuleType:
    """Import a Python file by its path.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ImportError
        If it is no Python file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    name = f"_checked_{path.stem}"  # so that a file called json.py does not replace json
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file; expected a name that ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def find_classes(modules: Sequence[ModuleType]) -> list[type]:
    """Return every layer, loss and network that the modules define, in the order of definition.

    That is: every subclass of Layer or Loss that is not abstract, and every class with ``forward``,
    ``backward`` and ``examples``.
    """
    found = []
    for module in modules:
        for value in vars(module).values():
            own = inspect.isclass(value) and value.__module__ == module.__name__
            if own and not inspect.isabstract(value):
                described = all(hasattr(value, name) for name in ("forward", "backward", "examples"))
                if issubclass(value, (Layer, Loss)) or described:
                    found.append(value)
    return found


def find_examples(cls: Any, seed: int = 0, dtype: Any = np.float64) -> list[Example]:
    """Return the examples of a class: those that it brings itself, or those in ``examples.py``.

    Raises
    ------
    ValueError
        If it has none, so that no proof can reach it.
    """
    make = cls.examples if hasattr(cls, "examples") else None
    if make is None and cls.__name__ in EXAMPLES:
        make = functools.partial(EXAMPLES[cls.__name__], cls)
    if make is None:
        raise ValueError(
            f"{cls.__name__} has no examples, so no proof can reach it; give it a class method "
            "examples(cls, rng, dtype) that yields (name, layer, inputs)"
        )
    examples = [Example(*example) for example in make(np.random.default_rng(seed), dtype)]
    if not examples:
        raise ValueError(f"{cls.__name__}.examples yields nothing; expected (name, layer, inputs)")
    return examples


def check_class(cls: Any, seed: int = 0, tolerance: float = 1e-6) -> Iterator[Report]:
    """Yield a report on the gradients of every example of a class."""
    for name, layer, inputs, check_forward, _ in find_examples(cls, seed):
        label = f"{cls.__name__} ({name})"
        yield gradcheck(
            layer, inputs, check_forward=check_forward, tolerance=tolerance, seed=seed, name=label
        )
