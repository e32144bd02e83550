"""Records the ids of ``dialogues`` by transformers' slow Llama tokenizer, as the published code calls it.

Runs in an environment of its own: the project's transformers has no slow tokenizer any more.

    python3 -m venv /tmp/slow && /tmp/slow/bin/pip install 'transformers==4.57.*' sentencepiece protobuf
    PYTHONPATH=. /tmp/slow/bin/python -m tests.parity.tokenizer.record TOKENIZER_MODEL
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import sys
import tempfile
from pathlib import Path

from tests.parity.tokenizer.dialogues import ADDED, IMAGE, dialogues, digest, text

IDS = Path(__file__).parent / "ids.json.xz"


def record(model: Path) -> dict[str, object]:
    """``ids`` of every dialogue, the image's place one above the vocabulary, and what gave them."""
    import sentencepiece  # noqa: PLC0415  # of the other environment, as is the next
    import transformers  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(model, Path(directory) / "tokenizer.model")
        tokenizer = transformers.LlamaTokenizer.from_pretrained(directory, legacy=True)
    for marker in ADDED:
        tokenizer.add_tokens(marker)
    image = len(tokenizer)
    generated = list(dialogues())
    ids = []
    for rounds in generated:
        before, after = (tokenizer(part).input_ids for part in text(rounds).split(IMAGE))
        ids.append([*before, image, *after[1:]])  # the second piece's BOS is dropped
    return {
        "transformers": transformers.__version__,
        "sentencepiece": sentencepiece.__version__,
        "tokenizer_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
        "dialogues_sha256": digest(generated),
        "added": tokenizer.convert_tokens_to_ids(list(ADDED)),
        "image": image,
        "ids": ids,
    }


if __name__ == "__main__":
    written = json.dumps(record(Path(sys.argv[1])), separators=(",", ":"))
    IDS.write_bytes(lzma.compress(written.encode(), preset=9 | lzma.PRESET_EXTREME))
