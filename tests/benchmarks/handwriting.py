"""Print how much handwriting the trained network reads, in MNIST's form and without, as a table.

python tests/benchmarks/handwriting.py [COUNT]: on the first COUNT test images, by default 400 (some minutes).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from test_handwriting import ROWS, accuracy

from minicaps.datasets import fit_picture


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print("| what was done to the digit | in MNIST's form | as it is |")
    print("|---|---|---|")
    for row in ROWS:
        print(f"| {row} | {100 * accuracy(row, count):.2f} | {100 * accuracy(row, count, fit_picture):.2f} |")


if __name__ == "__main__":
    main()
