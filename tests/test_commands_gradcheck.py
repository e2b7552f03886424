"""The command ``gradcheck``, on files of a reader's own."""

import json
import re
import sys

import pytest

pytestmark = pytest.mark.usefixtures("elsewhere")


CUBE = """
import numpy as np

class Cube:
    def forward(self, x):
        return x**3, x

    def backward(self, dy, x):
        return FACTOR * x**2 * dy

    @classmethod
    def examples(cls, rng, dtype):
        yield "small", cls(), (rng.normal(size=(2, 3)).astype(dtype),)
"""


@pytest.fixture
def cube(tmp_path):
    """Return a function that writes a layer x³ with the derivative factor · x²."""

    def cube(factor):
        path = tmp_path / f"cube_{str(factor).replace('.', '_')}.py"
        path.write_text(CUBE.replace("FACTOR", str(factor)))
        return path

    yield cube
    for name in [name for name in sys.modules if name.startswith("cube_")]:
        del sys.modules[name]


def test_gradcheck_passes_a_correct_layer(call, cube):
    code, output, errors = call("gradcheck", cube(3))
    assert code == 0 and errors == ""
    assert re.search(r"^Cube \(small\) .* x \de-", output, re.MULTILINE) and "all pass" in output


def test_gradcheck_fails_a_wrong_layer_and_says_where(call, cube):
    code, output, _ = call("gradcheck", "--seed", 5, cube(3.01))
    assert code == 1 and output.splitlines()[-1].endswith("FAILED")
    failure = re.search(
        r"Cube \(small\): gradient of x at \[\d, \d\]: backward says (?P<backward>\S+), central differences "
        r"say (?P<differences>\S+); relative error 3\.\de-03, allowed 1e-06 \(seed 5\)",
        output,
    )
    assert float(failure["backward"]) / float(failure["differences"]) == pytest.approx(3.01 / 3)


def test_gradcheck_checks_every_file_and_one_failure_is_enough(call, cube):
    code, output, _ = call("gradcheck", cube(3), cube(3.01))
    assert code == 1 and "2 examples of 2 classes" in output


def test_gradcheck_of_a_missing_file_ends_with_2(complaint):
    assert "absent.py: no such file" in complaint("gradcheck", "absent.py", code=2)


def test_gradcheck_of_a_file_without_layers_ends_with_1(complaint, tmp_path):
    (tmp_path / "cube_empty.py").write_text("from minicaps import Dense\n")
    line = complaint("gradcheck", tmp_path / "cube_empty.py", code=1)
    assert "cube_empty.py: no class with forward, backward and examples" in line


@pytest.mark.parametrize(
    "name, text, reason",
    [
        ("cube_syntax.py", "def (:\n", "SyntaxError: "),
        ("cube_import.py", "import a_package_that_is_not_there\n", "a_package_that_is_not_there"),
        ("notes.txt", "not Python", "notes.txt: not a Python file"),
    ],
)
def test_gradcheck_of_a_file_that_cannot_be_imported_ends_with_1(complaint, tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    assert reason in complaint("gradcheck", tmp_path / name, code=1)


LAYER = """
import numpy as np
from minicaps import Layer

class Double(Layer):
    def forward(self, x):
        self.seen = CODE
        return 2 * x, ()

    def backward(self, dy, cache):
        return 2 * dy

    @classmethod
    def examples(cls, rng, dtype):
        yield "small", cls(), (rng.normal(size=(2, 3)).astype(dtype),)
"""


def test_gradcheck_holds_a_layer_to_the_contract(call, tmp_path):
    (tmp_path / "cube_layer.py").write_text(LAYER.replace("self.seen = CODE", "pass"))
    code, output, errors = call("gradcheck", tmp_path / "cube_layer.py")
    assert (code, errors) == (0, "") and "all pass" in output
    assert re.search(r"^Double: contract: 1\d checks pass$", output, re.MULTILINE)


def test_gradcheck_fails_a_layer_with_correct_gradients_that_breaks_the_contract(call, tmp_path):
    (tmp_path / "cube_layer.py").write_text(LAYER.replace("CODE", "len(x)"))
    code, output, _ = call("gradcheck", tmp_path / "cube_layer.py")
    assert code == 1 and output.splitlines()[-1].endswith("FAILED")
    assert re.search(
        r"^Double: contract: FAILED\n  Double \(small\): forward_stores_nothing_on_the_layer: ",
        output,
        re.MULTILINE,
    )


def test_gradcheck_holds_a_class_that_is_no_layer_to_its_gradients_alone(call, cube):
    output = call("gradcheck", cube(3))[1]
    assert "Cube: contract: not checked, since it is no subclass of Layer or Loss" in output


BARE = """
from minicaps import Layer

class Bare(Layer):
    def forward(self, x):
        return x, x

    def backward(self, dy, cache):
        return dy
"""


def test_gradcheck_of_a_layer_without_examples_ends_with_1(complaint, tmp_path):
    (tmp_path / "cube_bare.py").write_text(BARE)
    assert "Bare has no examples" in complaint("gradcheck", tmp_path / "cube_bare.py", code=1)


def test_gradcheck_of_a_file_named_like_a_module_does_not_replace_the_module(
    call, cube, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "json", json)
    cube(3).rename(tmp_path / "json.py")
    assert call("gradcheck", tmp_path / "json.py")[0] == 0
    assert sys.modules["json"] is json


TWICE = """
from helper import FACTOR

class Twice:
    def forward(self, x):
        return FACTOR * x, None

    def backward(self, dy, cache):
        return 2.0 * dy

    @classmethod
    def examples(cls, rng, dtype):
        yield "small", cls(), (rng.normal(size=(2, 3)).astype(dtype),)
"""


def with_neighbour(folder, factor):
    folder.mkdir()
    (folder / "helper.py").write_text(f"FACTOR = {factor}\n")
    (folder / "twice.py").write_text(TWICE)
    return folder / "twice.py"


def test_gradcheck_imports_what_lies_beside_a_file_and_forgets_it_again(call, tmp_path):
    paths, modules = list(sys.path), {name for name in sys.modules if not name.startswith("_checked_")}
    assert call("gradcheck", with_neighbour(tmp_path / "good", 2.0))[0] == 0
    code, output, _ = call("gradcheck", with_neighbour(tmp_path / "bad", 2.1))  # another helper
    assert code == 1 and "Twice (small): gradient of x" in output
    assert call("gradcheck", tmp_path / "good" / "twice.py", tmp_path / "bad" / "twice.py")[0] == 1
    assert sys.path == paths and "helper" not in sys.modules
    assert modules <= set(sys.modules)


def test_what_does_not_lie_beside_a_file_stays_imported(call, tmp_path, monkeypatch):
    file = with_neighbour(tmp_path / "good", 2.0)
    package = file.parent / "packages" / "cube_installed"  # as in a virtual environment in the folder
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    file.write_text("import cube_installed, cube_beside.part\n" + TWICE)
    (file.parent / "cube_installed").mkdir()  # of that name, but no code
    (file.parent / "cube_beside").mkdir()  # a package without __init__.py
    (file.parent / "cube_beside" / "part.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    assert call("gradcheck", file)[0] == 0
    assert "cube_installed" in sys.modules
    assert not {"cube_beside", "cube_beside.part", "helper"} & sys.modules.keys()
    del sys.modules["cube_installed"]


def test_gradcheck_imports_neighbours_from_within_their_folder_too(process, tmp_path, monkeypatch):
    file = with_neighbour(tmp_path / "good", 2.0)
    monkeypatch.chdir(file.parent)
    assert process("gradcheck", "twice.py").returncode == 0


@pytest.mark.parametrize("name", ["my-layer.py", "1.2.py", "minicaps.py", "helpers.py", "numpy.py", "ä b.py"])
def test_gradcheck_of_a_file_whatever_its_name(call, cube, tmp_path, name):
    cube(3).rename(tmp_path / name)
    assert call("gradcheck", tmp_path / name)[0] == 0


@pytest.mark.parametrize(
    "text, reason",
    [
        ("def (:\n", "SyntaxError: "),
        ("import a_package_that_is_not_there\n", "ModuleNotFoundError: No module named 'a_package"),
        (
            "from .helper import x\n",
            "ImportError: attempted relative import.*; name the module without a dot",
        ),
        ("import sys; sys.exit(3)\n", r"ends the program while it is imported \(exit 3\); guard that"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
    ],
)
def test_gradcheck_names_the_file_that_fails_to_import(complaint, tmp_path, text, reason):
    (tmp_path / "cube_bad.py").write_text(text)
    line = complaint("gradcheck", tmp_path / "cube_bad.py", code=1)
    assert re.match(rf"minicaps: \S+cube_bad\.py: {reason}", line)
    assert not [name for name in sys.modules if name.endswith("cube_bad")]


RANDOM = CUBE.replace("return x**3, x", "return x**3 + np.random.default_rng().random(), x")


def test_gradcheck_says_what_spoils_a_proof(call, tmp_path):
    (tmp_path / "cube_random.py").write_text(RANDOM)
    code, output, errors = call("gradcheck", tmp_path / "cube_random.py")
    assert (code, errors) == (1, "") and output.splitlines()[-1].endswith("FAILED")
    assert "Cube (small): forward is not deterministic" in output
