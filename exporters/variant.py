"""A bundle whose image half computes in another precision, made from a float32 bundle alone.

Knows what becomes of the manifest, and that nothing is written which fails the comparison. The result is a bundle
like any other: its own digest stands in every result, and whatever serves a bundle serves it. Does not know how a
graph is cast (``exporters.onnx.half_precision``) or compared (``exporters.compare.drift``).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx_ir as ir
import onnxruntime

from exporters import hardlink
from exporters.compare import drift
from exporters.compare.json_report import as_json
from exporters.errors import UnsupportedSourceError
from exporters.onnx.files import save
from exporters.onnx.half_precision import Edge, Precision, cast
from exporters.progress import Progress
from serving.bundle import EXTERNAL, IMAGE_ENCODER, MANIFEST, MASK_DECODER, Bundle, file_digest, load_bundle

GRAPHS = (IMAGE_ENCODER, MASK_DECODER)
PRECISION_REPORT = "precision.json"
"""The comparison's figures, in the bundle."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a variant computes in, and the element type of embeddings between encoder, store and decoder."""

    precision: Precision
    edge: Edge


def write_variant(
    bundle: Bundle, form: Form, out: Path, comparison: drift.Comparison, progress: Progress
) -> drift.DriftVerdict:
    """Cast, compare, and write the variant to ``out`` if nothing fails.

    Args:
        out: must not exist, or be empty.

    Raises:
        UnsupportedSourceError: the bundle is a variant itself, or ``out`` holds something.
    """
    if bundle.manifest.image.precision != "fp32" or bundle.manifest.image.embedding_dtype != "float32":
        raise UnsupportedSourceError(
            f"{bundle.directory} is in {bundle.manifest.image.precision} already: "
            "make variants from the float32 bundle."
        )
    if out.exists() and any(out.iterdir()):
        raise UnsupportedSourceError(f"{out} is not empty: name a new directory, or remove it first.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as work:
        made = Path(work) / "bundle"
        made.mkdir()
        for name in GRAPHS:
            progress(f"casting {name} to {form.precision}")
            model = ir.load(bundle.path(name))
            cast(model, form.precision, form.edge)
            save(model, made / name)
        progress(f"comparing on {len(comparison.asked)} images")
        verdict = drift.judge(bundle.directory, made, comparison)
        if not verdict.problems:
            _complete(bundle, form, made, verdict.figures, comparison.limits)
            made.replace(out)  # at once: an interrupted run leaves nothing behind that looks whole
            load_bundle(out)
    return verdict


def _complete(
    bundle: Bundle, form: Form, made: Path, figures: drift.DriftFigures, limits: drift.DriftLimits
) -> None:
    """The other files, the report, and last the manifest."""
    written = {name for graph in GRAPHS for name in (graph, graph + EXTERNAL)} | {PRECISION_REPORT}
    kept = {name: digest for name, digest in bundle.manifest.files.items() if name not in written}
    for name in kept:
        hardlink.place(bundle.path(name), made / name)
    report = {
        "precision": form.precision,
        "embedding_dtype": form.edge,
        "made_from": bundle.digest,
        "figures": asdict(figures),
        "limits": asdict(limits),
        "how": f"emulated operator by operator on onnxruntime {onnxruntime.__version__}, CPU",
    }
    (made / PRECISION_REPORT).write_text(as_json(report) + "\n", encoding="utf-8")
    manifest = bundle.manifest
    changed = {name: file_digest(made / name) for name in written if (made / name).exists()}
    image = manifest.image.model_copy(update={"precision": form.precision, "embedding_dtype": form.edge})
    variant = manifest.model_copy(
        update={
            "image": image,
            "files": dict(sorted((kept | changed).items())),
            "source": manifest.source | {"bundle": bundle.digest},
        }
    )
    (made / MANIFEST).write_text(variant.model_dump_json(indent=2) + "\n", encoding="utf-8")
