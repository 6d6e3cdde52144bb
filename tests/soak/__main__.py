"""`python -m tests.soak`: live load on real servers, a fault every few seconds; `make soak` runs it.

Exit code 1 when anything was wrong. The same seed brings the same records and the same faults in the same order; where
exactly each of them hits is the machine's.
"""

import argparse
import sys
from pathlib import Path

import msgspec

from tests.soak.soak import RECORDS_PER_S, Soak
from tests.support.servers import Missing


def main() -> int:
    """Soak; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records-per-second", type=float, default=RECORDS_PER_S)
    parser.add_argument("--report", type=Path, help="write the report there, as JSON")
    chosen = parser.parse_args()
    try:
        report = Soak(chosen.seed, chosen.minutes, chosen.records_per_second).run()
    except Missing as missing:
        print(missing, file=sys.stderr)
        return 2
    print(report)
    if chosen.report is not None:
        chosen.report.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1))
    return 1 if report.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
