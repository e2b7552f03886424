"""Finding what there is to check: every layer, loss and network, with the examples it gives."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minicaps.layers import Example, Layer, Loss
from minicaps.proof import (  # noqa: F401, they register their examples
    capsule_examples,
    conv_examples,
    matrix_examples,
    routing_examples,
)
from minicaps.proof.examples import EXAMPLES
from minicaps.proof.gradcheck import gradcheck
from minicaps.proof.report import Report


def package_modules() -> list[ModuleType]:
    """Import and return every module of minicaps, those in its folders too."""
    import minicaps

    names = [info.name for info in pkgutil.walk_packages(minicaps.__path__, "minicaps.")]
    return [importlib.import_module(name) for name in names if name != "minicaps.__main__"]


def module_from_path(path: str | Path) -> ModuleType:
    """Import a Python file by its path, as ``python FILE`` would find what it imports: beside it first.

    What it imports from its own folder is forgotten again, so that files of several folders do not meet.

    Raises
    ------
    FileNotFoundError
        If it is not there.
    ImportError
        If it is no Python file, or fails while it is imported; the message names the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    # A name that no other module has, so that a file called json.py does not replace json.
    name = "_checked_" + re.sub(r"\W", "_", str(path.resolve().with_suffix("")))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file; expected a name that ends with .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with _importing_from(path.resolve().parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ImportError(f"{path}: {_why_not_imported(error)}") from error
    return module


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Within it, `folder` is the first that modules are looked for in."""
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        new = {name: name.partition(".")[0] for name in set(sys.modules) - before}
        found_here = {top for top in set(new.values()) - before if _is_of(sys.modules[top], folder)}
        for name in [name for name, top in new.items() if top in found_here]:
            del sys.modules[name]


def _is_of(module: ModuleType, folder: Path) -> bool:
    """Whether a module or package lies in a folder itself, not in one further inside."""
    spec = importlib.machinery.PathFinder.find_spec(module.__name__, [str(folder)])
    return spec is not None and spec.origin == getattr(module, "__file__", None)


def _why_not_imported(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return (
            f"ends the program while it is imported (exit {error.code}); guard that by __name__ == '__main__'"
        )
    cure = "; name the module without a dot" if "relative import" in str(error) else ""
    return f"{type(error).__name__}: {error}{cure}"


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
    examples = list(draw_examples(cls, seed, dtype))
    if not examples:
        raise ValueError(f"{cls.__name__}.examples yields nothing; expected (name, layer, inputs)")
    return examples


def draw_examples(cls: Any, seed: int = 0, dtype: Any = np.float64) -> Iterator[Example]:
    """Yield the examples of a class one by one; whoever wants one of them need not build those behind it."""
    make = cls.examples if hasattr(cls, "examples") else None
    if make is None and cls.__name__ in EXAMPLES:
        make = functools.partial(EXAMPLES[cls.__name__], cls)
    if make is None:
        raise ValueError(
            f"{cls.__name__} has no examples, so no proof can reach it; give it a class method "
            "examples(cls, rng, dtype) that yields (name, layer, inputs)"
        )
    for example in make(np.random.default_rng(seed), dtype):
        yield Example(*example)


def check_class(cls: Any, seed: int = 0, tolerance: float = 1e-6) -> Iterator[Report]:
    """Yield a report on the gradients of every example of a class."""
    for name, layer, inputs, check_forward, zero_gradient in find_examples(cls, seed):
        yield gradcheck(
            layer, inputs, check_forward=check_forward, tolerance=tolerance, seed=seed,
            name=f"{cls.__name__} ({name})", zero_gradient=zero_gradient,
        )  # fmt: skip
