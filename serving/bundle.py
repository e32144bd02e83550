"""The model bundle: one directory that holds all a serving stack needs to know of a model.

Knows the manifest's schema, the file names, and how a bundle is verified. Does not know how the
files are made (``exporters.bundle``) nor how they are run (``serving.llm``, ``serving.vision``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from serving.external_data import reference_problems

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer.model"
IMAGE_ENCODER = "image_encoder.onnx"
MASK_DECODER = "mask_decoder.onnx"
VISION_TOWER = "vision_tower.onnx"
LANGUAGE_MODEL = "language_model.onnx"
EXTERNAL = ".data"
"""Suffix of the one file beside a graph that holds its weights where it would exceed 2 GiB."""
REQUIRED_FILES = (TOKENIZER, IMAGE_ENCODER, MASK_DECODER)
LANGUAGE_GRAPHS = (VISION_TOWER, LANGUAGE_MODEL)
"""The language half as the ONNX engine reads it. A bundle without them serves by vLLM alone."""
SEG = "[SEG]"
"""The marker in an answer's words where the mask is meant."""
VLLM = "vllm"
"""Directory of the language half as vLLM reads it. A bundle without one serves by ONNX alone."""
VLLM_CONFIG = f"{VLLM}/config.json"
VLLM_WEIGHTS = f"{VLLM}/*.safetensors"
"""One file, or several and their index."""

Positive = Annotated[int, Field(gt=0)]
TokenId = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Triple = tuple[float, float, float]


class BundleError(Exception):
    """The bundle cannot be served; the message says what differs. Rebuild: ``python -m exporters bundle``."""


def split_answer(words: str) -> tuple[str, str]:
    """What stands before and after the ``[SEG]`` of a forced answer. Raises ValueError unless it is there once."""
    before, marker, after = words.partition(SEG)
    if not marker or SEG in after:
        raise ValueError(f"a forced answer must hold {SEG} exactly once")
    return before, after


def _template(words: str) -> str:
    if any("[" in part for part in split_answer(words)):
        raise ValueError(f"{SEG} must be its only marker")
    return words


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ImageSpec(_Section):
    """The image encoder's side of the model."""

    side: Positive
    """Side of the padded square that the encoder takes, in pixels (1024 for SAM ViT-B, 256 for Lite)."""
    preprocessing: Literal["sam_mean_std", "minmax_valid"]
    """What the encoder graph does to the uint8 pixels; part of the embedding's key."""
    embedding: tuple[Positive, Positive, Positive]
    """Shape of an embedding: channels, rows, columns (256, 64, 64)."""
    embedding_dtype: Literal["float32", "float16"] = "float32"
    """Element type of an embedding where it crosses an engine's edge."""
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    """What encoder and mask decoder compute in; judge and corrector always in fp32
    (``exporters.onnx.half_precision``)."""
    logits_side: Positive
    """Side of the square of mask logits, which covers the padded square."""

    @property
    def compute_dtype(self) -> str:
        """``precision`` by numpy's name of the type."""
        return {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}[self.precision]


class TowerSpec(_Section):
    """The vision tower's (CLIP's) side of the model."""

    side: Positive
    """Side of the tower's input in pixels (336 for CLIP ViT-L/14-336)."""
    tokens: Positive
    """Image tokens that ``<image>`` expands to (576 for 336/14)."""
    mean: Triple
    std: Triple


class LanguageSpec(_Section):
    """The decoder's sizes; key/value shapes follow from them."""

    hidden: Positive
    layers: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive
    """Rows of the embedding table, the added tokens included."""
    max_tokens: Positive
    """Longest prompt plus answer in tokens, image tokens counted."""
    feature: Positive
    """Length of a [SEG] feature (256)."""


class TokenSpec(_Section):
    """Ids of the tokens that only the prompt builder may insert."""

    bos: TokenId
    eos: TokenId
    seg: TokenId
    bbox: TokenId
    crop: TokenId
    image: TokenId
    """Placeholder of the image: outside the vocabulary, so that no text can produce it."""


class JudgeSpec(_Section):
    """Judgment & Correction. ``present`` is false for a stage 1 checkpoint: scores are then absent."""

    present: bool
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.6
    """A feature whose score is at most this is corrected."""


class AnswerSpec(_Section):
    """How rounds are answered when the caller does not say."""

    default_mode: Literal["forced", "free"]
    template: Annotated[str, AfterValidator(_template)] = f"It is {SEG}."
    """Answer of a forced round whose caller gives none: see ``split_answer``."""
    template_trained: bool
    """Whether training showed the model answers in these words. Where it did not, a feature read after them
    draws a poor mask, so that a forced round needs its caller's words."""
    tail: str = "."
    """Text appended to the history after a generated ``[SEG]``, which ends the answer."""
    max_new_tokens: Positive = 32

    @model_validator(mode="after")
    def _default_can_be_asked(self) -> Self:
        if self.default_mode == "forced" and not self.template_trained:
            raise ValueError("default_mode is forced, which needs a trained template: make it free")
        return self


class Manifest(_Section):
    """``manifest.json``: everything about a model that serving may depend on."""

    schema_version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=64)]
    version: Annotated[str, Field(min_length=1, max_length=32)]
    intended_use: str
    image: ImageSpec
    tower: TowerSpec
    language: LanguageSpec
    tokens: TokenSpec
    judge: JudgeSpec
    answers: AnswerSpec
    storage: Literal["fp32", "fp16"]
    """How weights lie in the graphs: both are computed in fp32, but for ``image.precision``. vLLM's say theirs."""
    source: dict[str, str]
    """Digests of what the bundle was made from, by role (checkpoint, base, clip)."""
    files: dict[str, Digest]
    """SHA-256 of every other file of the bundle, by path within it."""

    @property
    def has_language_graphs(self) -> bool:
        return self.files.keys() >= set(LANGUAGE_GRAPHS)

    @property
    def has_vllm_model(self) -> bool:
        return VLLM_CONFIG in self.files and any(PurePosixPath(name).match(VLLM_WEIGHTS) for name in self.files)

    def graph_digest(self, name: str) -> str:
        """Identifies a graph with all its weights: the file's digest, or one over it and its external data."""
        digest, external = self.files[name], self.files.get(name + EXTERNAL)
        return hashlib.sha256(f"{digest}/{external}".encode()).hexdigest() if external else digest

    @model_validator(mode="after")
    def _tokens_fit(self) -> Self:
        ids, rows = self.tokens.model_dump(), self.language.vocabulary
        if len(set(ids.values())) < len(ids):
            raise ValueError("tokens: two of them have one id")
        for name, token in ids.items():
            if (token < rows) == (name == "image"):
                raise ValueError(f"tokens.{name} is {token}; the vocabulary has {rows} rows")
        return self


@dataclass(frozen=True, slots=True)
class Bundle:
    """A verified bundle. ``digest`` is the SHA-256 of its manifest and so identifies every byte of it."""

    directory: Path
    manifest: Manifest
    digest: str

    def path(self, name: str) -> Path:
        return self.directory / name

    def language_graphs(self) -> tuple[Path, Path]:
        """The vision tower's graph and the language model's. Raises BundleError when the bundle has none."""
        if not self.manifest.has_language_graphs:
            raise BundleError(
                f"{self.directory} holds no {', '.join(LANGUAGE_GRAPHS)}, which the ONNX engine needs: serve it "
                "with `python -m serving.llm --engine vllm` and `python -m serving --language grpc://HOST:PORT`, "
                "or rebuild it with `python -m exporters bundle --language both`"
            )
        return self.path(VISION_TOWER), self.path(LANGUAGE_MODEL)

    def vllm_model(self) -> Path:
        """The directory that vLLM loads.

        Raises BundleError when there is none, or a file in it is not in the manifest: vLLM would read that too.
        """
        directory = self.path(VLLM)
        if not self.manifest.has_vllm_model:
            raise BundleError(
                f"{self.directory} holds no {VLLM}/ directory, which the vLLM engine needs: rebuild it with "
                "`python -m exporters bundle --language both`, or serve it with the ONNX engine"
            )
        paths = {path.relative_to(directory) for path in directory.rglob("*")}
        # Kubernetes' own, of a mounted volume: links to what lies beside them. vLLM reads nothing below it.
        visible = {path for path in paths if not path.parts[0].startswith("..")}
        files = {f"{VLLM}/{path.as_posix()}" for path in visible if not _is_real_directory(directory / path)}
        if unlisted := sorted(files - self.manifest.files.keys()):
            raise BundleError(f"{self.directory}: not listed in the manifest, remove: {', '.join(unlisted)}")
        return directory


def _is_real_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_bundle(directory: Path) -> Bundle:
    """Read and verify a bundle.

    Raises:
        BundleError: the manifest is missing or malformed, a file is missing, or a digest differs.
    """
    manifest_path = directory / MANIFEST
    try:
        text = manifest_path.read_bytes()
    except OSError as error:
        raise BundleError(f"{manifest_path}: cannot be read ({error.strerror}); is --bundle right?") from error
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BundleError(f"{manifest_path}: does not fit this server: {problems}") from error
    problems_found = _file_problems(directory, manifest) or _external_problems(directory, manifest)
    if problems_found:
        raise BundleError(f"{directory}: " + "; ".join(problems_found))
    return Bundle(directory, manifest, hashlib.sha256(text).hexdigest())


def _file_problems(directory: Path, manifest: Manifest) -> list[str]:
    problems = [f"{name}: not listed in the manifest" for name in REQUIRED_FILES if name not in manifest.files]
    if not (manifest.has_language_graphs or manifest.has_vllm_model):
        problems.append(f"{', '.join(LANGUAGE_GRAPHS)}: not listed in the manifest, and no {VLLM_WEIGHTS}")
    for name, expected in manifest.files.items():
        path, parts = directory / name, PurePosixPath(name)
        # Only the name is judged. A file may be a link into a store beside the bundle, as huggingface_hub, DVC and
        # Kubernetes lay it out: the digest vouches for its bytes, wherever they lie.
        if parts.is_absolute() or ".." in parts.parts:
            problems.append(f"{name}: lies outside the bundle")
        elif path.is_symlink() and not path.exists():
            problems.append(f"{name}: is a link that leads to no file")
        elif not path.is_file():
            problems.append(f"{name}: missing")
        elif (actual := file_digest(path)) != expected:
            problems.append(f"{name}: SHA-256 is {actual[:12]}…, the manifest says {expected[:12]}…")
    return problems


def _external_problems(directory: Path, manifest: Manifest) -> list[str]:
    """A runtime reads what a graph refers to, whatever the manifest lists: it must be under a digest."""
    names = sorted(name for name in manifest.files if name.endswith(".onnx"))
    return [
        f"{name}: {problem}"
        for name in names
        for problem in reference_problems(directory / name, EXTERNAL, listed=name + EXTERNAL in manifest.files)
    ]
