"""The benchmark for a machine with a GPU: what it does where there is none, and that it can fail."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parent / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def gpu():
    """The benchmark as a module."""
    sys.path.insert(0, str(FILE.parent))
    try:
        import gpu
    finally:
        sys.path.remove(str(FILE.parent))
    return gpu


def test_without_a_gpu_the_stand_in_takes_part_and_the_rest_is_told(tmp_path):
    command = [
        sys.executable,
        str(FILE),
        "--parts",
        "agreement,transfers,speed",
        "--out",
        str(tmp_path / "gpu"),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    content = json.loads((tmp_path / "gpu.json").read_text())
    if content["device"]:
        return  # a GPU is here; then there is nothing to stand in for
    assert "no GPU (backend 'cupy'" in result.stdout and "stand-in" in result.stdout
    rows = {(row["part"], row["what"]): row for row in content["rows"]}
    assert rows["speed", "needs a GPU"]["value"].startswith("not run: backend 'cupy'")
    held = [row for row in content["rows"] if row["ok"] is not None]
    with_torch = content["machine"]["torch"] != "missing"
    assert len(held) == 12 + 2 * with_torch and all(row["ok"] for row in held)
    count = 11 + with_torch  # ten rows, or eleven, and what they took
    assert (tmp_path / "gpu.md").read_text().count("\n| agreement |") == count
    amp = rows["agreement", "gradient of a step of small, AMP"]["value"]
    assert ("from ours" in amp) == with_torch and ("PyTorch is missing" in amp) != with_torch


def test_every_example_is_compared_and_a_wrong_one_is_seen(gpu, monkeypatch):
    compared = []

    def compare(case, dtype, xp):
        compared.append(case.label)
        return (2e-4, 0.0) if case.label == "fast.Conv2d-" + case.name else (0.0, 0.0)

    monkeypatch.setattr(gpu, "compare_example", compare)
    monkeypatch.setattr(gpu, "compare_step", lambda preset, xp: 0.0)
    monkeypatch.setattr(gpu, "mixed_agreement", lambda device: iter(()))
    rows = [row for row in gpu.agreement(gpu.Device(None, real=False)) if row.ok is not None]
    assert len(compared) == 2 * len(set(compared)) > 500
    wrong = [row.what for row in rows if not row.ok]
    assert [what.split()[0] + " " + what.split()[-1] for what in wrong] == [
        "outputs float64",
        "outputs float32",
    ]


def test_a_wrong_gradient_in_mixed_precision_is_seen(gpu, monkeypatch):
    monkeypatch.setattr(gpu, "find_torch", lambda: None)
    whole, device = gpu.gradients_of, gpu.Device("the device", real=False)
    gradients = {precision: whole("tiny", np, precision) for precision in ("float32", "mixed")}
    assert 0 < gpu.by_norm(gradients["mixed"], gradients["float32"]) < gpu.MIXED
    wrong = {name: 1.02 * grad for name, grad in gradients["mixed"].items()}
    for found, ok in ((gradients["mixed"], True), (wrong, False)):
        monkeypatch.setattr(
            gpu,
            "gradients_of",
            lambda preset, xp, precision, found=found: found if xp == "the device" else gradients[precision],
        )
        row, missing = gpu.mixed_agreement(device)
        assert row.ok is ok and missing.ok is None


def test_a_part_that_breaks_is_a_row_and_the_next_one_begins(gpu, monkeypatch, capsys):
    def broken(device):
        yield gpu.Row("agreement", "one", "1", True)
        raise RuntimeError("no | more")

    def whole(device):
        yield gpu.Row("transfers", "two", "2", True)

    monkeypatch.setattr(gpu, "PARTS", {"agreement": broken, "transfers": whole})
    monkeypatch.setattr(gpu, "find_device", lambda: gpu.Device(None, real=False, why="none here"))
    assert gpu.main(["--parts", "agreement,transfers"]) == 1
    said = capsys.readouterr().out
    assert "RuntimeError: no | more" in said and "two" in said
    assert "no / more" in gpu.as_table([gpu.Row("a", "b", "no | more", None)], {})
    assert gpu.main(["--parts", "transfers"]) == 0


def test_an_unknown_part_is_refused(gpu, capsys):
    with pytest.raises(SystemExit):
        gpu.main(["--parts", "agreement,speeed"])
    assert "--parts has speeed, expected some of tests, agreement" in capsys.readouterr().err


@pytest.mark.parametrize(
    "stderr, status, ok",
    [
        ("minicaps: out of memory\n", 1, True),
        ("Traceback (most recent call last):\n", 1, False),
        ("one\ntwo\n", 1, False),
        ("", 1, False),
        ("one\n", 0, False),
    ],
)
def test_a_failure_is_one_clear_line(gpu, stderr, status, ok):
    result = subprocess.CompletedProcess([], status, "", stderr)
    assert gpu.one_line("what", result).ok is ok
