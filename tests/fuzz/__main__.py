"""`python -m tests.fuzz [KIND...] [--count N] [--seed S] [--only NUMBER] [--keep FOLDER]`: exit status 1 where anything
was found.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .cases import KINDS
from .running import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[*KINDS, []], help="all by default")
    parser.add_argument("--count", type=int, default=1000, help="cases of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="one case, by its number")
    parser.add_argument("--keep", type=Path, help="folder for the files of cases with findings")
    given = parser.parse_args()
    found = 0
    for kind in given.kinds or KINDS:
        started = time.monotonic()
        summary = run(kind, given.count, given.seed, given.keep, given.only)
        ends = ", ".join(f"{end} {count}" for end, count in sorted(summary.ends.items()))
        took = time.monotonic() - started
        lines = [f"{kind}: {summary.cases} cases, {len(summary.findings)} findings, {took:.0f} s", f"  {ends}"]
        sys.stdout.write("\n".join([*lines, *(f"  {finding}" for finding in summary.findings)]) + "\n")
        sys.stdout.flush()
        found += len(summary.findings)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
