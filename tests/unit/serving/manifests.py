"""A manifest of made-up sizes, for logic tests that need no bundle."""

from __future__ import annotations

from serving.bundle import LANGUAGE_GRAPHS, REQUIRED_FILES, Manifest


def manifest(**changes: object) -> Manifest:
    """A small valid manifest; ``changes`` replace whole sections."""
    sections: dict[str, object] = {
        "name": "made-up",
        "version": "0",
        "intended_use": "tests",
        "image": {"side": 64, "preprocessing": "sam_mean_std", "embedding": (256, 64, 64), "logits_side": 256},
        "tower": {"side": 28, "tokens": 4, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.25, 0.125)},
        "language": {
            "hidden": 8,
            "layers": 1,
            "kv_heads": 1,
            "head_dim": 8,
            "vocabulary": 2**21,
            "max_tokens": 400,
            "feature": 256,
        },
        "tokens": {"bos": 1, "eos": 2, "seg": 3, "bbox": 4, "crop": 5, "image": 2**21},
        "judge": {"present": True, "threshold": 0.6},
        "answers": {"default_mode": "forced", "template_trained": True, "max_new_tokens": 8},
        "storage": "fp32",
        "source": {},
        "files": dict.fromkeys((*REQUIRED_FILES, *LANGUAGE_GRAPHS), "0" * 64),
    }
    return Manifest.model_validate(sections | changes)
