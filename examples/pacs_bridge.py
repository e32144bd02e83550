"""Bridge from a folder of exported images to masks: one dialogue each, none twice. A sketch, not a product.

    python examples/pacs_bridge.py --server 127.0.0.1:50051 --inbox exported --outbox masks

A result lies under the SHA-256 of its image, for a file's name may name a person. What the server cannot take
now is tried again on the next pass; what it never takes gets the reasons instead of masks.
"""

import argparse
import hashlib
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path

from mediround import Client, InvalidArgument, MediRoundError, Round

ROUNDS = [Round("Segment the left thalamus."), Round("Segment the same structure on the other side.", refer_to=0)]


def segment(client: Client, image: bytes, done: Path) -> None:
    part = done.with_suffix(".part")  # a result appears whole or not at all
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    record: dict[int | str, object] = {}
    try:
        for result in client.segment(image, ROUNDS, priority="batch"):
            if result.mask is not None:
                result.save(part / f"{result.index}.png")
            record[result.index] = result.to_dict()
    except InvalidArgument as refused:
        record["refused"] = [asdict(violation) for violation in refused.violations]
    (part / "result.json").write_text(json.dumps(record, indent=1))
    part.rename(done)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--inbox", type=Path, required=True)
    parser.add_argument("--outbox", type=Path, required=True)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between passes; 0 ends after the first")
    given = parser.parse_args()
    with Client(given.server) as client:
        while True:
            settled = [path for path in given.inbox.iterdir() if time.time() - path.stat().st_mtime > 2]
            for image in map(Path.read_bytes, settled):
                done = given.outbox / hashlib.sha256(image).hexdigest()
                try:
                    if not done.exists():
                        segment(client, image, done)
                except MediRoundError as error:  # its words hold no name
                    print(f"later: {error}", flush=True)
            if not given.every:
                break
            time.sleep(given.every)
