"""The names and keywords that CuPy has, read from ``cupy_names.txt``, so that tests need no CuPy.

To write that file anew (this needs CuPy, but no GPU): python tests/cupy_names.py
"""

import inspect
from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")


def read():
    """Return {dotted name: its keywords}, as in {"cupy.zeros": {"shape", "dtype", "order"}}."""
    lines = (line.split() for line in FILE.read_text().splitlines() if not line.startswith("#"))
    return {name: set(keywords) for name, *keywords in lines}


def keywords_of(function, cupy):
    if isinstance(function, (cupy.ufunc, type(cupy.matmul))):
        return ["out", "dtype"]  # of those that their documentation names, all that we could need
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # compiled: Cython writes the signature into the docstring
        head = (function.__doc__ or "").strip().split("\n")[0]
        inside = head[head.find("(") + 1 : head.rfind(")")]
        return [part.split("=")[0].split()[-1] for part in inside.split(", ")[1:] if "*" not in part]
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def main():
    import cupy
    from cupy.lib import stride_tricks

    lines = [f"# CuPy {cupy.__version__}: names and keywords, written by tests/cupy_names.py"]
    places = (("cupy", cupy), ("cupy.lib.stride_tricks", stride_tricks), ("cupy.ndarray", cupy.ndarray))
    for place, owner in places:
        for name in sorted(dir(owner)):
            value = getattr(owner, name)
            if not name.startswith("_") and not inspect.ismodule(value) and not inspect.isclass(value):
                keywords = keywords_of(value, cupy) if callable(value) else []
                lines.append(" ".join([f"{place}.{name}", *keywords]))
    FILE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
