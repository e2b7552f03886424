"""The house: which folder may know which, read from the syntax trees."""

import ast
import sys
from pathlib import Path

import pytest

import minicaps

PACKAGE = Path(minicaps.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LESSONS = sorted((Path(__file__).parents[1] / "lessons").glob("*.py"))

# room -> the rooms that it may import. "proof" finds networks and what is fast when it runs.
ROOMS = {
    "arrays": set(),
    "checks": {"arrays"},
    "layers": {"arrays", "checks"},
    "capsules": {"arrays", "checks", "layers"},
    "fast": {"arrays", "checks", "layers", "capsules"},
    "datasets": {"arrays", "checks"},
    "proof": {"arrays", "checks", "layers", "capsules"},
    "networks": {"arrays", "checks", "layers", "capsules", "fast", "datasets"},
    "training": {"arrays", "checks", "layers", "capsules", "fast", "datasets", "networks"},
}
ROOMS["figures"] = {*ROOMS["training"], "training"}
ROOMS["experiments"] = {*ROOMS["figures"], "figures"}
ROOMS["commands"] = {*ROOMS["experiments"], "experiments", "proof"}
ROOMS["conventions"] = set()
ROOMS["estimator"] = {*ROOMS["training"], "training", "conventions"}
ROOMS["cli"] = {*ROOMS["commands"], "commands"}
ROOMS["__main__"] = {"cli"}
ROOMS["__init__"] = {"capsules", "estimator", "fast", "layers", "networks", "proof", "training"}

# what only some rooms may import
ONLY = {
    "matplotlib": {"figures", "experiments"},
    "cupy": {"arrays"},
    "ctypes": {"fast"},
    "concurrent": {"fast"},
    "multiprocessing": {"training"},
    "subprocess": {"training"},
    "mmap": {"training"},
    "fcntl": {"training"},
    "msvcrt": {"training"},
    "mpi4py": {"training"},
}
OPTIONAL = {"cupy", "PIL", "IPython", "mpi4py", "resource", "sklearn"}  # may be imported within a function
PYPLOT = "matplotlib.pyplot"  # loads a display, so only where a window is opened
MACHINERY = {"threading", "multiprocessing", "ctypes", "subprocess", "mmap"}


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree):
    """Yield (module, names, line, whether within a function) of every import in a syntax tree."""
    within = {id(node) for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
              for node in ast.walk(function)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, [], node.lineno, id(node) in within
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", [alias.name for alias in node.names], node.lineno, id(node) in within


def faults(room, source, path="x.py"):
    """Return what is wrong with the imports of a file, in words."""
    found = []
    for module, names, line, lazily in imports(ast.parse(source)):
        where, (first, *rest) = f"{path}:{line}", module.split(".")
        if first != "minicaps":
            if room not in ONLY.get(first, {room}):
                found.append(f"{where}: {first} is for {', '.join(sorted(ONLY[first]))} only")
            if lazily and first not in OPTIONAL and module != PYPLOT:
                found.append(f"{where}: {module} is imported within a function")
            if not lazily and module == PYPLOT:
                found.append(f"{where}: pyplot is imported by importing minicaps")
            continue
        if lazily and room != "proof":
            found.append(f"{where}: {module} is imported within a function")
        for target in [rest[0]] if rest else [name for name in names if (PACKAGE / name).exists()
                                               or (PACKAGE / f"{name}.py").exists()]:  # fmt: skip
            if target != room and target not in ROOMS[room]:
                found.append(f"{where}: {room} may not know {target}")
            if target != room and len(rest) > 1:
                found.append(f"{where}: {module} is a file of another folder; import minicaps.{target}")
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    assert room_of(path) in ROOMS
    assert faults(room_of(path), path.read_text(encoding="utf-8"), path.name) == []


def test_the_look_at_imports_sees_what_is_wrong():
    for room, source in [
        ("layers", "from minicaps.fast import Dense"),
        ("layers", "from minicaps import capsules"),
        ("capsules", "import threading, ctypes"),
        ("training", "from minicaps.networks.capsnet import CapsNet"),
        ("networks", "import matplotlib"),
        ("training", "def f():\n import json"),
        ("figures", "import matplotlib.pyplot"),
        ("commands", "import matplotlib.figure"),
        ("fast", "import cupy"),
    ]:
        assert len(faults(room, source)) == 1, (room, source)
    assert faults("fast", "from minicaps import layers\nfrom minicaps.fast.threads import parallel") == []
    assert faults("figures", "def f():\n import matplotlib.pyplot") == []


def test_no_circle_of_files():
    """Every file comes after those that it imports, in some order of all files."""
    known = {".".join(("minicaps", *path.relative_to(PACKAGE).with_suffix("").parts)): path for path in FILES}
    known = {name.removesuffix(".__init__"): path for name, path in known.items()}
    needs = {}
    for name, path in known.items():
        own = set()
        for module, names, _, lazily in imports(ast.parse(path.read_text(encoding="utf-8"))):
            if not lazily and module in known:
                inside = {f"{module}.{each}" for each in names if f"{module}.{each}" in known}
                own |= inside if inside and len(inside) == len(names) else {module, *inside}
        needs[name] = own - {name, "minicaps"}
    while needs:
        ready = [name for name, own in needs.items() if not own & needs.keys()]
        assert ready, f"a circle among {', '.join(sorted(needs))}"
        for name in ready:
            del needs[name]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_lessons_import_folders_not_files(path):
    for module, _, line, _ in imports(ast.parse(path.read_text(encoding="utf-8"))):
        assert module.count(".") < 2 or not module.startswith("minicaps"), f"{path.name}:{line}: {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_file_has_more_than_300_lines_without_a_reason_in_its_first_lines(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 300 or any("lines because" in line for line in lines[:10]), len(lines)


@pytest.mark.parametrize("folder", ["layers", "capsules"])
def test_definitions_have_no_machinery(folder):
    for path in (PACKAGE / folder).glob("*.py"):
        modules = {
            module.split(".")[0] for module, *_ in imports(ast.parse(path.read_text(encoding="utf-8")))
        }
        assert not modules & MACHINERY, path.name
        assert "thread" not in path.read_text(encoding="utf-8").lower(), path.name


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py")))
def test_a_folder_exports_what_it_names(folder):
    module = sys.modules.get(f"minicaps.{folder}") or __import__(f"minicaps.{folder}", fromlist=["x"])
    assert module.__doc__ and module.__all__ == sorted(module.__all__, key=lambda n: (not n.isupper(), n))
    assert all(hasattr(module, name) for name in module.__all__)
