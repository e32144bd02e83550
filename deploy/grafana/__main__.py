"""``python -m deploy.grafana``: write the dashboard; ``--check``: say whether the committed one is another."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.grafana.dashboard import build

FILE = Path(__file__).with_name("mediround.json")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if the committed one is another"
    )
    given = parser.parse_args()
    text = JSONEncoder(sort_keys=True, indent=1).encode(build()) + "\n"
    if not given.check:
        FILE.write_text(text)
    elif FILE.read_text() != text:
        print(f"{FILE} differs from dashboard.py: run 'python -m deploy.grafana' and commit")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
