"""Proof that the tests bite: change one operator, sign, axis, comparison or constant, and see who notices.

    python tests/mutate.py                    # 400 mutants, some minutes on two cores
    python tests/mutate.py --count 40 --only capsules/squash.py

Every mutant is one small wrong edit of one file. The fast tests of that file run on it, in a temporary copy
of the project, and a mutant is caught when a test fails or when it runs into the time limit. Survivors are
printed. Those in ``equivalent.txt``, with the reason, compute the same numbers as the original and cannot
be caught; any other survivor is a test that is missing, and the exit code is 1.

Nothing is mutated in strings (no test should hold wording), in what is raised (messages) and in ``zip``'s
``strict``.
"""

from __future__ import annotations

import argparse
import ast
import fcntl
import os
import random
import resource
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("equivalent.txt")
LIMIT = 60  # seconds of processor time for the tests of one mutant
WORKERS = 2

# The tests of each file, run one after the other until one fails.
DEVICE = ["tests/test_device.py", "-k", "numbers or stays"]
PITFALLS = ["tests/test_pitfalls.py", "-k", "not test_set and not preset"]


def contract(*words: str) -> list[str]:
    return ["tests/test_contract.py", "-k", " or ".join(words)]


def twin(words: str) -> list[str]:
    return ["tests/test_twins.py", "-k", words]


def precision(words: str) -> list[str]:
    return ["tests/test_precision.py", "-k", words]


ROUTING, CONV, SPECTRAL = ["tests/test_routing.py"], ["tests/test_conv.py"], ["tests/test_spectral.py"]
CONV_CAPS = ["tests/test_conv_capsules.py"]
FAMILIES, FACTORED = ["tests/test_routing_families.py"], ["tests/test_factored.py"]
EFFICIENT = ["tests/test_efficient.py", "-k", "not processes and not a_run"]
EM, MATRIX = ["tests/test_em_routing.py"], ["tests/test_matrix_capsules.py", "-k", "not network"]
TESTS = {
    "layers/activations.py": [CONV, contract("ReLU", "Sigmoid", "Softmax"), ROUTING],
    "layers/batch_norm.py": [EFFICIENT, contract("BatchNorm")],
    "layers/convolution.py": [CONV, contract("layers.Conv2d"), twin("Conv2d"), PITFALLS],
    "layers/dense.py": [contract("layers.Dense"), twin("Dense"), PITFALLS],
    "layers/losses.py": [["tests/test_losses.py"], contract("Loss", "WeightedSum"), PITFALLS],
    "layers/normalization.py": [FAMILIES, contract("LayerNorm")],
    "layers/pooling.py": [CONV, contract("MaxPool")],
    "layers/reshape.py": [contract("Reshape"), ["tests/test_checks.py", "-k", "option"]],
    "layers/sequential.py": [contract("Sequential")],
    "layers/spread_loss.py": [MATRIX, contract("SpreadLoss")],
    "layers/vectors.py": [["tests/test_squash.py"], PITFALLS],
    "layers/windows.py": [CONV, SPECTRAL, CONV_CAPS],
    "capsules/capsule_layer.py": [ROUTING, FAMILIES, contract("capsules.CapsuleLayer"), PITFALLS],
    "capsules/couplings.py": [
        ROUTING,
        FAMILIES,
        contract("Softmax", "Leaky", "Hard", "Stopped", "Frozen", "Prior"),
    ],
    "capsules/decoder.py": [contract("Mask", "Decoder"), ["tests/test_checks.py", "-k", "option"], PITFALLS],
    "capsules/depthwise.py": [EFFICIENT, contract("Depthwise")],
    "capsules/dynamic_routing.py": [ROUTING, FAMILIES, contract("DynamicRouting"), PITFALLS],
    "capsules/inverted_attention_routing.py": [FAMILIES, contract("InvertedAttention")],
    "capsules/presence.py": [FAMILIES, contract("Length", "Given", "Line")],
    "capsules/conv_capsule_layer.py": [CONV_CAPS, contract("capsules.ConvCaps", "DeconvCaps")],
    "capsules/conv_votes.py": [CONV_CAPS, contract("capsules.ConvVotes", "DeconvVotes")],
    "capsules/dynamic_routing_3d.py": [CONV_CAPS, contract("DynamicRouting3D", "MapSquash")],
    "capsules/conv_capsules.py": [MATRIX, contract("capsules.ConvMatrixCaps")],
    "capsules/em_routing.py": [EM, contract("capsules.EMRouting")],
    "capsules/matrix_capsules.py": [
        MATRIX,
        contract("capsules.PrimaryMatrixCaps", "capsules.ClassMatrixCaps"),
    ],
    "capsules/matrix_votes.py": [MATRIX, contract("MatrixVotes")],
    "capsules/primary.py": [PITFALLS, contract("PrimaryCaps")],
    "capsules/routing.py": [ROUTING, FAMILIES],
    "capsules/routing_losses.py": [FAMILIES, contract("CouplingEntropy", "Unrest")],
    "capsules/self_attention_routing.py": [FAMILIES, contract("SelfAttention")],
    "capsules/sparse_couplings.py": [FAMILIES, contract("TopK", "Sparsemax", "Entmax")],
    "capsules/squash.py": [["tests/test_squash.py"], FAMILIES, contract("Squash"), PITFALLS],
    "capsules/votes.py": [ROUTING, contract("Votes"), PITFALLS],
    "capsules/window_softmax.py": [MATRIX, contract("WindowSoftmax")],
    "fast/activations.py": [twin("ReLU"), contract("fast.ReLU")],
    "fast/bilinear.py": [SPECTRAL, twin("Conv2d")],
    "fast/capsule_layer.py": [
        twin("CapsuleLayer"),
        ROUTING,
        FAMILIES,
        FACTORED,
        contract("fast.CapsuleLayer"),
        precision("CapsuleLayer"),
    ],
    "fast/convolution.py": [
        twin("Conv2d"),
        CONV,
        SPECTRAL,
        contract("fast.Conv2d"),
        precision("Conv2d or windows or convolution"),
    ],
    "fast/couplings.py": [twin("TopK or Sparsemax or Entmax or Prior"), FACTORED],
    "fast/dense.py": [twin("Dense"), contract("fast.Dense"), precision("Dense or mlp")],
    "fast/dynamic_routing.py": [twin("CapsuleLayer"), ROUTING, FACTORED],
    "fast/em_routing.py": [twin("EMRouting"), EM],
    "fast/factored.py": [twin("CapsuleLayer"), ROUTING, FACTORED],
    "fast/inverted_attention_routing.py": [twin("CapsuleLayer"), FACTORED],
    "fast/matrix_capsules.py": [twin("MatrixCaps"), MATRIX, precision("MatrixCaps")],
    "fast/normalization.py": [twin("LayerNorm"), contract("fast.LayerNorm")],
    "fast/precision.py": [precision("not run and not train and not paper")],
    "fast/self_attention_routing.py": [twin("CapsuleLayer"), FACTORED],
    "fast/spectral.py": [SPECTRAL, twin("Conv2d")],
    "fast/squash.py": [["tests/test_squash.py"], twin("Squash"), contract("fast.Squash")],
    "fast/threads.py": [["tests/test_threads.py"], FACTORED],
    "fast/votes.py": [twin("Votes"), contract("fast.Votes"), precision("Votes")],
    "layers/scaled_loss.py": [contract("ScaledLoss"), precision("power or overflows")],
    "training/fast_adam.py": [["tests/test_optim.py"]],
    "training/loss_scale.py": [
        precision("scal or overflows or lose or below or state or power or wrong or cannot_go_on")
    ],
    "training/optimizers.py": [["tests/test_optim.py"], DEVICE, PITFALLS],
    "training/schedules.py": [["tests/test_optim.py"]],
}


class Site(NamedTuple):
    """One place in a syntax tree, and what to put there."""

    function: str
    context: ast.AST  # what is shown of the surroundings
    parent: ast.AST
    field: str
    index: int | None
    new: ast.AST


class Mutant(NamedTuple):
    file: str  # in minicaps: "capsules/squash.py"
    name: str  # "capsules/squash.py forward: q * q -> q / q"
    source: str


SWAPS = {
    ast.Add: [ast.Sub], ast.Sub: [ast.Add], ast.Mult: [ast.Div], ast.Div: [ast.Mult],
    ast.FloorDiv: [ast.Mult], ast.Mod: [ast.Mult], ast.Pow: [ast.Mult], ast.LShift: [ast.RShift],
    ast.Lt: [ast.LtE, ast.GtE], ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE], ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq], ast.NotEq: [ast.Eq], ast.Is: [ast.IsNot], ast.IsNot: [ast.Is],
    ast.And: [ast.Or], ast.Or: [ast.And],
}  # fmt: skip
SHOWN = (ast.expr, ast.keyword, ast.AugAssign, ast.Assign)  # enough of the surroundings to know the place


def replacements(node: ast.AST) -> list[ast.AST]:
    """Return what may stand in the place of a node, each time with one thing wrong."""
    if type(node) in SWAPS:
        return [other() for other in SWAPS[type(node)]]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        return [node.operand]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        return [ast.Constant(not node.value)]
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        larger = node.value + 1 if isinstance(node.value, int) else (2 * node.value or 1.0)
        return [ast.Constant(larger)]
    if method(node) == "transpose" and len(node.args) > 1:
        *first, a, b = node.args
        return [ast.Call(node.func, [*first, b, a], [])]
    return []


def method(node: ast.AST) -> str:
    """Return the name of the method that is called, if one is."""
    return getattr(node.func, "attr", "") if isinstance(node, ast.Call) else ""


def skipped(node: ast.AST) -> bool:
    if isinstance(node, ast.keyword):
        return node.arg == "strict"
    return isinstance(node, (ast.Raise, ast.JoinedStr))


def sites(node: ast.AST, function: str = "", context: ast.AST | None = None):
    """Yield every Site below a node, in order."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}".lstrip(".")
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns"):
            continue
        children = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, child in children:
            if not isinstance(child, ast.AST) or skipped(child):
                continue
            if field in ("defaults", "kw_defaults"):
                names = node.args[-len(value) :] if field == "defaults" else node.kwonlyargs
                place = f"{function}, default of {names[index].arg}"
            else:
                place = function
            around = node if isinstance(node, SHOWN) else child
            if isinstance(node, (ast.UnaryOp, ast.Slice, ast.Tuple)) and isinstance(context, SHOWN):
                around = context
            for new in replacements(child):
                yield Site(place, around, node, field, index, new)
            if method(node) != "reshape" or not isinstance(child, ast.UnaryOp):  # -2 means what -1 does
                yield from sites(child, place, around)


def put(site: Site, new: ast.AST) -> ast.AST:
    """Put a node in the place of a Site and return what was there."""
    if site.index is None:
        old = getattr(site.parent, site.field)
        setattr(site.parent, site.field, new)
    else:
        children = getattr(site.parent, site.field)
        old, children[site.index] = children[site.index], new
    return old


def syntax_tree(file: str) -> ast.Module:
    return ast.parse((ROOT / "minicaps" / file).read_text(encoding="utf-8"))


def mutants_of(file: str) -> list[Mutant]:
    """Return every mutant of a file in minicaps."""
    tree = syntax_tree(file)
    found, seen = [], Counter()
    for site in sites(tree):
        before = ast.unparse(site.context)
        old = put(site, site.new)
        after = ast.unparse(site.new if old is site.context else site.context)
        name = f"{file} {site.function}: {before} -> {after}"
        seen[name] += 1
        found.append(Mutant(file, name + (f" ({seen[name]})" if seen[name] > 1 else ""), ast.unparse(tree)))
        put(site, old)
    return found


# -- running the tests ------------------------------------------------------------------------


class QuietHypothesis:
    """A pytest plugin: the same examples each time, and no search for smaller ones."""

    def pytest_collection(self) -> None:  # after conftest.py, which loads a profile of its own
        import hypothesis

        options = {"deadline": None, "derandomize": True, "database": None, "report_multiple_bugs": False}
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        hypothesis.settings.register_profile("mutate", phases=phases, **options)
        hypothesis.settings.load_profile("mutate")


def run_tests(project: Path, file: str) -> bool:
    """Say whether all tests of a file pass in a copy of the project."""
    import pytest

    os.chdir(project)
    sys.path.insert(0, str(project))
    sys.dont_write_bytecode = True
    # hypothesis is loaded before pytest can look at it, see run_all
    flags = ["-x", "--tb=no", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    return all(pytest.main([*flags, *selection], [QuietHypothesis()]) == 0 for selection in TESTS[file])


def start(project: Path, mutant: Mutant, lock: Path | None) -> int:
    """Run the tests of a mutant in a new process, forked from this one, and return its number."""
    (project / "minicaps" / mutant.file).write_text(mutant.source, encoding="utf-8")
    pid = os.fork()
    if pid:
        return pid
    try:
        if lock:
            fcntl.flock(os.open(lock, os.O_RDONLY), fcntl.LOCK_SH)  # released when the process ends
        resource.setrlimit(resource.RLIMIT_CPU, (LIMIT, LIMIT))  # the system ends it then
        os._exit(0 if run_tests(project, mutant.file) else 1)
    finally:
        os._exit(1)


def run_all(mutants: list[Mutant], projects: list[Path], lock: Path | None) -> list[Mutant]:
    """Return the mutants that survive their tests, two at a time."""
    import hypothesis.extra.numpy  # noqa: F401, every process below begins with what is loaded here
    import matplotlib.figure  # noqa: F401
    import pytest  # noqa: F401

    survivors, waiting, running = [], list(reversed(mutants)), {}
    while waiting or running:
        while waiting and projects:
            project, mutant = projects.pop(), waiting.pop()
            running[start(project, mutant, lock)] = project, mutant
        pid, status = os.wait()
        project, mutant = running.pop(pid)
        shutil.copyfile(ROOT / "minicaps" / mutant.file, project / "minicaps" / mutant.file)
        projects.append(project)
        print(f"{len(mutants) - len(waiting) - len(running)} of {len(mutants)}", end="\r", file=sys.stderr)
        if status == 0:
            survivors.append(mutant)
            print(f"survived: {mutant.name}", flush=True)
    return survivors


def copy_project(project: Path) -> Path:
    for folder in ("minicaps", "tests"):
        shutil.copytree(ROOT / folder, project / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", project)
    (project / "data").symlink_to(ROOT / "data")
    return project


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=400, help="mutants to draw (0: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--only", choices=TESTS, help="mutate this file alone")
    parser.add_argument("--lock", type=Path, help="hold a shared lock on this file during each mutant")
    options = parser.parse_args()
    os.environ.update(MINICAPS_THREADS="1", OPENBLAS_NUM_THREADS="1")
    files = [options.only] if options.only else list(TESTS)
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    total = len(mutants)
    if 0 < options.count < total:
        mutants = random.Random(options.seed).sample(mutants, options.count)
    unchanged = [Mutant(file, f"{file} as it is", ast.unparse(syntax_tree(file))) for file in files]
    known = {line.split(" | ")[0] for line in TABLE.read_text(encoding="utf-8").splitlines()}
    with tempfile.TemporaryDirectory() as folder:
        projects = [copy_project(Path(folder) / str(k)) for k in range(WORKERS)]
        if len(run_all(unchanged, projects, options.lock)) < len(files):
            print("the tests fail without any change; mend that first", file=sys.stderr)
            return 1
        survivors = run_all(mutants, projects, options.lock)
    missed = [mutant for mutant in survivors if mutant.name not in known]
    caught = len(mutants) - len(survivors)
    print(
        f"{caught} of {len(mutants)} mutants caught ({100 * caught / len(mutants):.1f} %), "
        f"{len(survivors) - len(missed)} equivalent, {len(missed)} missed; {total} can be made"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
