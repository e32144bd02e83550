"""Many images at once: asyncio, a semaphore, batch priority, retries; what is done is skipped.

    python examples/fan_out.py --server 127.0.0.1:50051 --images slices --out masks --at-once 4

What is written are whole results, their masks as COCO's run lengths.
"""

import argparse
import asyncio
import json
import time
from pathlib import Path

from mediround import AsyncClient, MediRoundError, ResourceExhausted, Round, Unavailable

ROUNDS = [Round("Segment the left thalamus."), Round("Segment the same structure on the other side.", refer_to=0)]


async def segment(client: AsyncClient, image: Path, target: Path, gate: asyncio.Semaphore) -> bool:
    for attempt in range(6):
        try:
            async with gate:
                results = [result async for result in client.segment(image, ROUNDS, priority="batch")]
            part = target.with_suffix(".part")
            part.write_text(json.dumps([result.to_dict() for result in results]))
            part.rename(target)  # whole or not at all
            return True
        except (ResourceExhausted, Unavailable) as busy:
            await asyncio.sleep(busy.retry_after * 2**attempt)
        except (MediRoundError, OSError) as error:
            print(f"{image}: {error}")
            break
    return False


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, metavar="HOST:PORT")
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=4)
    given = parser.parse_args()
    targets = [(image, given.out / f"{image.stem}.json") for image in sorted(given.images.glob("*.png"))]
    due = [pair for pair in targets if not pair[1].exists()]
    given.out.mkdir(parents=True, exist_ok=True)
    began, gate = time.monotonic(), asyncio.Semaphore(given.at_once)
    async with AsyncClient(given.server) as client:
        done = sum(await asyncio.gather(*[segment(client, *pair, gate) for pair in due]))
    rate = done / (time.monotonic() - began)
    print(f"{done} of {len(due)} images done, {len(targets) - len(due)} skipped; {rate:.2f} a second")


if __name__ == "__main__":
    asyncio.run(main())
