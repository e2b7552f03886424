"""Reading a data set from CSV: rows of a label and pixels, or of a file's name and a label."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from minicaps.datasets.assemble import Part, assemble
from minicaps.datasets.dataset import Dataset
from minicaps.datasets.folders import read_images
from minicaps.datasets.pixels import turn, unfold

# What columns are called: of labels, of files, and of numbers of the rows, which some programs write.
LABELS = {"label", "labels", "class", "target", "category", "character", "digit", "y"}
FILES = {"filename", "file_name", "file", "image", "image_name", "img", "path", "filepath"}
NUMBERS = {"", "id", "index", "unnamed: 0"}
TRAIN = re.compile(r"((?:.*[-_])?)train((?:[-_].*)?\.csv)", re.IGNORECASE)
BLOCK = 1 << 22  # characters that are parsed at once
MAX_LABEL = 100  # characters
WHOLE = re.compile(r"\d{1,18}(?:\.0*)?", re.ASCII)


class Columns(NamedTuple):
    """What the first line of a table says: which columns hold what."""

    width: int  # how many there are
    label: int | None
    file: int | None
    pixels: list[int]
    has_head: bool
    delimiter: str


def read_csv(path: str | Path, size: tuple[int, int] | None = None) -> Dataset:
    """Read a CSV file with a row for every image: its label and its pixels, or its file's name and its label.

    - Pixels: whole numbers from 0 to 255, a square number of them, or three times one for colour
      (red, green and blue of a pixel in turn). The label is in the column that the head calls so (label,
      class, target, ...), or in the first. EMNIST's files (``emnist-...csv``) are turned as its IDX files
      are.
    - Names of files: in a column filename, file, image or path beside one of labels. The pictures lie
      beside the table, or in train/, images/ or images/train/ there (for the test in test/ ...).

    Beside ``mnist_train.csv`` the test part is ``mnist_test.csv``, if that has labels; otherwise every
    fifth image of a class is for the test. Labels may be any text; if all are whole numbers they are
    class numbers. Commas, semicolons and tabs separate columns.

    Parameters
    ----------
    path : path
    size : (int, int), optional
        Height and width to scale the images to. Without it pictures must all have one size.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a picture that it names.
    ValueError
        If a row cannot be read, or what it holds is no data set.
    """
    path = Path(path)
    paths = [path, *filter(None, [find_test_table(path)])]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    heads = [_read_head(each) for each in paths]
    if heads[0].label is None:
        raise ValueError(f"{path}: its head names no column of labels, expected one called label")
    tables = [(each, head) for each, head in zip(paths, heads, strict=True) if head.label is not None]
    if heads[0].file is not None:
        parts = _read_listed(tables, size)
    else:
        parts = [_read_pixels(*table) for table in tables]
    train, *test = _number_labels(parts)
    return assemble(str(path), train, test[0] if test else None, size)


def is_train_table(path: Path) -> bool:
    """Whether a file is called as a table of training images is: train.csv, mnist_train.csv."""
    return TRAIN.fullmatch(path.name) is not None


def find_test_table(path: Path) -> Path | None:
    """Return the table of test images beside one of training images, or None."""
    if found := TRAIN.fullmatch(path.name):
        wanted = f"{found[1]}test{found[2]}".lower()
        others = path.parent.iterdir() if path.parent.is_dir() else ()
        return next((each for each in others if each.name.lower() == wanted and each.is_file()), None)
    return None


# -- heads and rows ----------------------------------------------------------------------------


def _open(path: Path) -> TextIO:
    return open(path, encoding="utf-8-sig", newline="")


def _read_head(path: Path) -> Columns:
    with _open(path) as file:
        try:
            line = file.readline(BLOCK)
        except UnicodeDecodeError:
            raise ValueError(f"{path}: not a CSV file (it is not text in UTF-8)") from None
    if not line.strip() or "\0" in line:
        raise ValueError(
            f"{path}: {'not a CSV file' if line.strip() else 'an empty file'}, expected rows of images"
        )
    delimiter = max(",;\t", key=line.count)
    cells = [cell.strip().lower() for cell in _cells(line, delimiter)]
    named = [k for k, cell in enumerate(cells) if cell in LABELS]
    files = [k for k, cell in enumerate(cells) if cell in FILES]
    has_head = bool(named or files) or not all(map(_is_number, cells[1:]))
    label = (named[0] if named else None) if has_head else 0
    skipped = {label, *(k for k, cell in enumerate(cells) if has_head and cell in NUMBERS)}
    pixels = [k for k in range(len(cells)) if k not in skipped]
    return Columns(len(cells), label, files[0] if files else None, pixels, has_head, delimiter)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cells(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter), [])


def _blocks(path: Path, columns: Columns) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a table in blocks, each with the number of the line before it."""
    with _open(path) as file:
        number = int(columns.has_head)
        if columns.has_head:
            file.readline()
        try:
            while lines := file.readlines(BLOCK):
                for k, line in enumerate(lines, number + 1):
                    count = (
                        len(_cells(line, columns.delimiter))
                        if '"' in line
                        else line.count(columns.delimiter) + 1
                    )
                    if count != columns.width and line.strip():
                        raise ValueError(
                            f"{path}: line {k} has {count:,} columns, expected {columns.width:,}"
                        )
                yield number, [line for line in lines if line.strip()]
                number += len(lines)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{path}: after line {number} it cannot be read ({error})") from None


def _cell(line: str, column: int, columns: Columns) -> str:
    if '"' in line:
        return _cells(line, columns.delimiter)[column].strip()
    if column == 0:
        return line.partition(columns.delimiter)[0].strip()
    return line.split(columns.delimiter)[column].strip()


def _label(path: Path, line: str, columns: Columns) -> str:
    assert columns.label is not None  # tables without labels are left out before
    label = _cell(line, columns.label, columns)
    if not 0 < len(label) <= MAX_LABEL:
        raise ValueError(
            f"{path}: a label of {len(label):,} characters ({line[:20].strip()}…), expected 1 to {MAX_LABEL}"
        )
    return label


def _number_labels(parts: Sequence[Part]) -> list[Part]:
    """Make numbers of the labels of all parts, if all of them are whole numbers."""
    texts = {text for part in parts for text in part.labels.tolist()}
    if not all(map(WHOLE.fullmatch, texts)):
        return list(parts)
    numbers = {text: int(text.partition(".")[0]) for text in texts}
    return [
        part._replace(labels=np.array([numbers[text] for text in part.labels.tolist()], dtype=np.int64))
        for part in parts
    ]


# -- pixels in the table -----------------------------------------------------------------------


def _read_pixels(path: Path, columns: Columns) -> Part:
    labels: list[str] = []
    blocks = [np.zeros((0, len(columns.pixels)), dtype=np.uint8)]
    for number, lines in _blocks(path, columns):
        labels += [_label(path, line, columns) for line in lines]
        try:
            rows = np.loadtxt(
                lines,
                dtype=np.float32,
                delimiter=columns.delimiter,
                usecols=columns.pixels,
                ndmin=2,
                comments=None,
                quotechar='"',
            )  # (n, P)
        except ValueError as error:
            raise ValueError(f"{path}: in the rows after line {number}: {error}") from None
        whole = rows.astype(np.uint8) if not (rows < 0).any() and (rows <= 255).all() else None  # (n, P)
        if whole is None or (whole != rows).any():
            raise ValueError(
                f"{path}: pixels run from {rows.min():g} to {rows.max():g}, expected whole numbers from 0 to "
                "255 (multiply by 255 what runs from 0 to 1)"
            )
        blocks.append(whole)
    images = unfold(str(path), np.concatenate(blocks))  # (N, S, S, C)
    if path.name.lower().startswith("emnist"):
        images = turn(images)
    return Part(images, np.array(labels, dtype=str), str(path), str(path))


# -- files that the table names ----------------------------------------------------------------


def _read_listed(tables: Sequence[tuple[Path, Columns]], size: tuple[int, int] | None) -> list[Part]:
    """Read the pictures that tables name, all of them as one array, and take it apart."""
    paths: list[Path] = []
    labels: list[list[str]] = []
    for (path, columns), part in zip(tables, ("train", "test"), strict=False):
        if columns.file is None:
            raise ValueError(
                f"{path}: its head names no column of files, as that of {tables[0][0].name} does"
            )
        rows = [line for _, lines in _blocks(path, columns) for line in lines]
        if not rows:
            raise ValueError(f"{path}: names no files")
        names = [_cell(line, columns.file, columns) for line in rows]
        labels.append([_label(path, line, columns) for line in rows])
        paths += _find_files(path, names, part)
    images, parts = read_images(paths, size), []
    for (path, _), of_part in zip(tables, labels, strict=True):
        parts.append(Part(images[: len(of_part)], np.array(of_part, dtype=str), str(path), str(path)))
        images = images[len(of_part) :]
    return parts


def _find_files(table: Path, names: Sequence[str], part: str) -> list[Path]:
    """Return the paths of the files, which lie in the first of some folders that has the first of them."""
    inside = ["", part, *(f"{folder}{end}" for folder in ("images", "Images") for end in (f"/{part}", ""))]
    folders = [table.parent / name for name in inside]
    folder = next((folder for folder in folders if (folder / names[0]).is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"{table}: names {names[0]}, which is neither beside it nor in "
            f"{', '.join(filter(None, inside))} there"
        )
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file, though {table} names it")
    return [folder / name for name in names]
