#!/usr/bin/env bash
# The whole suite on an installed wheel, outside the repository, with an interpreter and versions of choice:
#
#   tests/benchmarks/compatibility.sh python3.10 numpy==1.26.4 matplotlib==3.8.4    # the oldest supported
#   tests/benchmarks/compatibility.sh python3                                       # the newest there are
#
# Only the tests, the lessons, the data and pytest's settings are taken from the repository: the code comes
# from the wheel.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
python=${1:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

cp -r "$repository"/{minicaps,pyproject.toml,README.md,README.zh.md,LICENSE} "$place"  # the build leaves files where it works
"$python" -m venv "$place/venv"
bin="$place/venv/bin"
"$bin/pip" wheel --quiet --no-deps --wheel-dir "$place" "$place"
rm -r "$place/minicaps"
"$bin/pip" install --quiet "$(echo "$place"/minicaps-*.whl)[test]" "${@:2}"
cp -r "$repository"/{tests,lessons} "$place"

cd "$place"
unset PYTHONPATH
export MINICAPS_DATA="$repository/data"
"$bin/python" -c 'import sys, numpy, matplotlib, minicaps
print("Python", sys.version.split()[0], "NumPy", numpy.__version__, "matplotlib", matplotlib.__version__)
print(minicaps.__file__)'
"$bin/python" -m pytest -p no:cacheprovider tests --pyargs minicaps
