"""Turn the lessons into notebooks that have been run.

python lessons/notebooks.py                 all lessons, into notebooks/
python lessons/notebooks.py 2 6 --out DIR   lessons 2 and 6
python lessons/notebooks.py --no-run        without running them, which needs nothing but Python

To run them takes what ``pip install -e ".[notebooks]"`` brings. A lesson that fails is told, and not written.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NEEDED = ("nbconvert", "ipykernel")
CELL = re.compile(r"^# %%(?P<title>.*)\n", re.MULTILINE)
COLOUR = re.compile(r"\x1b\[[\d;]*m")  # of an error in a notebook
Notebook = dict[str, Any]


def lessons() -> list[Path]:
    """Return the files of all lessons, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


# -- from a script to a notebook -------------------------------------------------------------------


def to_notebook(text: str) -> Notebook:
    """Return the notebook (nbformat 4.5) of a script in percent format, as jupytext does.

    Raises
    ------
    ValueError
        If a cell of text has a line that is no comment.
    """
    parts = CELL.split(text)
    heads, bodies = parts[1::2], [part.strip("\n") for part in parts[2::2]]
    cells = [_cell(k, head.strip(), body) for k, (head, body) in enumerate(zip(heads, bodies, strict=True))]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def _cell(number: int, title: str, body: str) -> dict[str, Any]:
    name = hashlib.sha256(f"{number}\n{title}\n{body}".encode()).hexdigest()[:8]  # the same each time
    if title == "[markdown]":
        source = _uncommented(body)
        return {"cell_type": "markdown", "id": name, "metadata": {}, "source": source}
    metadata = {"title": title} if title else {}
    code = {"cell_type": "code", "execution_count": None, "outputs": []}
    return {**code, "id": name, "metadata": metadata, "source": body}


def _uncommented(body: str) -> str:
    lines = body.splitlines()
    for line in lines:
        if line != "#" and not line.startswith("# "):
            raise ValueError(f"a cell of text has the line {line!r}, expected a comment")
    return "\n".join(line[2:] for line in lines)


# -- running it ----------------------------------------------------------------------------------


def run(notebook: Notebook) -> Notebook:
    """Return the notebook with what its cells print and draw, run in a folder that is then removed."""
    import nbformat
    from nbconvert.preprocessors import ExecutePreprocessor

    os.environ.pop("MINICAPS_FIGURES", None)  # so that every notebook names its figures alike
    with tempfile.TemporaryDirectory() as folder:
        copy_results(Path(folder))
        runner = ExecutePreprocessor(timeout=None, kernel_name="python3")
        done, _ = runner.preprocess(nbformat.from_dict(notebook), {"metadata": {"path": folder}})
    return dict(done)


def copy_results(folder: Path) -> None:
    """Put stored results where a notebook, which does not know its file, looks for them: in lessons/."""
    (folder / "lessons").mkdir()
    for result in HERE.glob("*.json"):
        shutil.copy(result, folder / "lessons")


# -- the command -----------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Write the notebooks, and return the exit code: 0, 1 if one failed, 2 if something is missing."""
    parser = argparse.ArgumentParser(prog="notebooks.py", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("numbers", metavar="N", nargs="*", type=int, help="lesson to turn (default: all)")
    parser.add_argument("--out", metavar="FOLDER", type=Path, default=Path("notebooks"),
                        help="where to write them (default: notebooks)")  # fmt: skip
    parser.add_argument("--no-run", action="store_true", help="leave the cells without their results")
    options = parser.parse_args(arguments)
    known = {int(path.name[:2]): path for path in lessons()}
    if strange := sorted(set(options.numbers) - set(known)):
        parser.error(f"there is no lesson {strange[0]}, expected 1 to {max(known)}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing and not options.no_run:
        parser.error(
            f"to run lessons takes {' and '.join(missing)}: pip install -e '.[notebooks]'; or write them "
            "with --no-run"
        )
    options.out.mkdir(parents=True, exist_ok=True)
    written = [_write(known[number], options.out, not options.no_run)
               for number in sorted(set(options.numbers) or known)]  # fmt: skip
    return 0 if all(written) else 1


def _write(path: Path, folder: Path, with_results: bool) -> bool:
    """Write the notebook of a lesson, and say so; where the lesson fails, say why."""
    try:
        notebook = to_notebook(path.read_text(encoding="utf-8"))
        notebook = run(notebook) if with_results else notebook
    except Exception as error:  # of whatever kind: the other lessons do without this one
        last = (COLOUR.sub("", str(error)).strip().splitlines() or [""])[-1]
        print(f"{path.name}: not written ({type(error).__name__}: {last})", file=sys.stderr)
        return False
    target = folder / f"{path.stem}.ipynb"
    target.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(target)
    return True


if __name__ == "__main__":
    sys.exit(main())
