"""A reader's work on one image: an answer undone, a mask corrected by hand, the session taken up again later.

python examples/undo_and_amend.py --server 127.0.0.1:50051 --image slice.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediround import Client, MovedOn, Session

FIRST, SECOND = "Segment the left thalamus.", "Segment the same structure on the other side."


def edited(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """bool (H, W): where a reader would draw, this takes the upper half of what is set away."""
    corrected, rows = mask.copy(), np.flatnonzero(mask.any(axis=1))
    corrected[: rows[rows.size // 2]] = False
    return corrected


def begin(session: Session) -> None:
    """Ask, undo, correct, ask again."""
    first = session.ask(FIRST, mode="grammar")
    print(session.ask(SECOND, refer_to=first))
    try:
        session.undo()
    except MovedOn:
        raise SystemExit("another program asks in this session: look at its history first") from None
    corrected = session.amend(first, edited(session.mask(first)), origin="by hand")  # the round as it is now
    print(session.ask(SECOND, refer_to=corrected))


def look(session: Session) -> None:
    """What the session holds."""
    for past in session.history():
        source = f", about a mask from {past.reference.origin or 'the model'}" if past.reference else ""
        print(f"{past.index}: {past.question} {past.area} px{', amended' if past.amended else ''}{source}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--image", type=Path, required=True)
    given = parser.parse_args()
    with Client(given.server) as client, client.open(given.image, keep=True) as session:
        begin(session)
        kept = session.session_id  # whoever knows it may ask in the session: it is not printed
    with Client(given.server) as client:
        look(client.resume(kept))
        client.session(kept).close()


if __name__ == "__main__":
    main()
