"""Every metric of the orchestrator and of the language server, declared once.

Knows names, units, and every value that a label may take: no label holds anything that a caller sent. Does not
know when a metric changes (``serving.telemetry.recorder``, ``serving.telemetry.collector``) or how it is read
(``serving.telemetry.exposition``).
"""

from __future__ import annotations

from serving.errors import Shed
from serving.observer import Ahead
from serving.telemetry import store_metrics
from serving.telemetry.metric import SECONDS, Metric, MetricKind

CODES = (
    *("OK", "INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "RESOURCE_EXHAUSTED"),
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL"),
)
"""gRPC statuses that calls of ours end with."""
METHODS = (
    *("OpenSession", "AskRound", "SegmentDialogue", "CloseSession", "DescribeServer"),
    *("AskRoundWithProgress", "GetSession", "GetMask", "ListSessions", "KeepAlive"),
    *("RewindSession", "ForkSession", "AmendRound"),
)
INDICES = ("0", "1", "2", "3", "4", "5+")
"""Of a round in its session, from 0 as in the contract."""
UNKNOWN_INDEX = "unknown"
"""Of a round whose request failed before its first round was answered."""
PRIORITIES = ("interactive", "batch")
ENCODE_AHEAD = "encode_ahead"
OPENING_STAGES = ("pixels", "preprocess", ENCODE_AHEAD)
ROUND_STAGES = ("queue", "prepare", "encode", "language", "decode", "postprocess")
CACHES = ("embedding", "prefix", "pictures", "uploads")
ENGINES = ("language", "vision")
PLACES = ("shared", "own")
"""Of an embedding: memory that Triton maps, or the orchestrator's own."""
SLABS = ("embeddings", "masks")

SCORES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 1.0)
COUNTS = (1.0, 2.0, 3.0, 4.0, 5.0, 8.0, 12.0, 16.0, 24.0, 32.0)
NEAR = 0.01
"""A score this close to its threshold may fall on either side of it in other arithmetic."""

ROUNDS = Metric(
    "mediround_rounds",
    MetricKind.COUNTER,
    "Rounds requested, by the gRPC status they ended with and their index in the session, from 0. A request "
    "that fails counts each of its unanswered rounds.",
    {"code": CODES, "index": (*INDICES, UNKNOWN_INDEX)},
)
ROUND_SECONDS = Metric(
    "mediround_round_seconds",
    MetricKind.HISTOGRAM,
    "Latency of answered rounds: from arrival, or from the end of the wave before, to the mask.",
    {"index": INDICES, "priority": PRIORITIES},
    "seconds",
    SECONDS,
)
STAGE_SECONDS = Metric(
    "mediround_stage_seconds",
    MetricKind.HISTOGRAM,
    "Seconds of each stage that took place: pixels and preprocess once per image that is sent, encode_ahead once "
    "per encode that began before a question asked for it, queue once per request, the others once per wave. "
    "Stages overlap. A stage includes waiting for its engine while others use it.",
    {"stage": (*OPENING_STAGES, *ROUND_STAGES)},
    "seconds",
    SECONDS,
)
CALLS = Metric(
    "mediround_calls",
    MetricKind.COUNTER,
    "Calls of the public contract, by method and the gRPC status they ended with.",
    {"method": METHODS, "code": CODES},
)
SHED = Metric(
    "mediround_shed",
    MetricKind.COUNTER,
    "Calls refused with RESOURCE_EXHAUSTED, by the limit that was reached.",
    {"reason": tuple(Shed)},
)
IN_PROGRESS = Metric(
    "mediround_requests_in_progress",
    MetricKind.GAUGE,
    "Requests for rounds in progress: admitted, and not yet answered; as batch, images prepared ahead, too.",
    {"priority": PRIORITIES},
)
QUEUE_REQUESTS = Metric(
    "mediround_queue_requests",
    MetricKind.GAUGE,
    "Requests for rounds that wait in the admission queue; not images that are to be prepared ahead.",
    {"priority": PRIORITIES},
)
QUEUE_COST = Metric(
    "mediround_queue_cost_seconds",
    MetricKind.GAUGE,
    "Engine seconds that the waiting requests are expected to take.",
    {"priority": PRIORITIES},
    "seconds",
)
QUEUE_AGE = Metric(
    "mediround_queue_age_seconds",
    MetricKind.GAUGE,
    "Seconds that the oldest waiting request has waited; 0 when none waits.",
    {"priority": PRIORITIES},
    "seconds",
)
EXPECTED = Metric(
    "mediround_expected_work_seconds",
    MetricKind.GAUGE,
    "Engine seconds of one encode, language pass or mask on an idle engine, as admission estimates them.",
    {"work": ("encode", "pass", "mask")},
    "seconds",
)
CACHE_HITS = Metric(
    "mediround_cache_hits",
    MetricKind.COUNTER,
    "Lookups that found the entry, at least in part.",
    {"cache": CACHES},
)
CACHE_MISSES = Metric(
    "mediround_cache_misses", MetricKind.COUNTER, "Lookups that found nothing.", {"cache": CACHES}
)
CACHE_EVICTIONS = Metric(
    "mediround_cache_evictions", MetricKind.COUNTER, "Entries evicted to free bytes.", {"cache": CACHES}
)
CACHE_BYTES = Metric("mediround_cache_bytes", MetricKind.GAUGE, "Bytes in the cache.", {"cache": CACHES}, "bytes")
CACHE_LIMIT = Metric(
    "mediround_cache_limit_bytes", MetricKind.GAUGE, "Byte budget of the cache.", {"cache": CACHES}, "bytes"
)
EMBEDDINGS = Metric(
    "mediround_embeddings_held",
    MetricKind.GAUGE,
    "Embeddings held, those being filled included, by memory: shared with Triton, or the orchestrator's own.",
    {"place": PLACES},
)
EMBEDDINGS_LEASED = Metric(
    "mediround_embeddings_leased",
    MetricKind.GAUGE,
    "Of the embeddings held, those in use, awaited or being written: they are neither evicted nor moved.",
    {"place": PLACES},
)
EMBEDDINGS_OUTSIDE = Metric(
    "mediround_embeddings_outside",
    MetricKind.COUNTER,
    "Embeddings placed in process memory because no shared slot was free: moved there to make room, or allocated "
    "there. They are served by gRPC.",
    {"reason": ("moved", "allocated")},
)
SLOTS = Metric(
    "mediround_slab_slots",
    MetricKind.GAUGE,
    "Slots of shared memory, by use and state. A slot is withheld after its writer was lost without a reply, "
    "until another Triton process maps the memory.",
    {"slab": SLABS, "state": ("free", "taken", "withheld")},
)
TRITON_CALLS = Metric(
    "mediround_triton_calls",
    MetricKind.COUNTER,
    "Calls that Triton answered, by how the embedding was passed: in shared memory or by gRPC.",
    {"call": ("encode", "decode"), "embedding": ("shared", "grpc")},
)
TRITON_BYTES = Metric(
    "mediround_triton_tensor_bytes",
    MetricKind.COUNTER,
    "Bytes of tensors sent to and received from Triton by gRPC; tensors in shared memory do not count.",
    {"direction": ("sent", "received")},
    "bytes",
)
TRITON_RETRIES = Metric(
    "mediround_triton_retries", MetricKind.COUNTER, "Calls made again, because Triton was lost or restarted."
)
TRITON_HANDSHAKES = Metric(
    "mediround_triton_handshakes",
    MetricKind.COUNTER,
    "Successful handshakes with Triton: one at the start, and one after each loss.",
)
TRITON_MAPPINGS = Metric(
    "mediround_triton_mappings",
    MetricKind.COUNTER,
    "Regions of shared memory that Triton was asked to map: each at the start, and again after each loss.",
)
PROMPT_TOKENS = Metric(
    "mediround_prompt_tokens",
    MetricKind.COUNTER,
    "Prompt tokens, image tokens included, by source of their keys and values: cached or computed.",
    {"source": ("cached", "computed")},
    "tokens",
)
PASSES = Metric(
    "mediround_language_passes",
    MetricKind.COUNTER,
    "Language passes: one per wave, and one per image that is read before a question asks for it.",
)
DIALOGUE_ROUNDS = Metric(
    "mediround_dialogue_rounds", MetricKind.HISTOGRAM, "Rounds per completed SegmentDialogue call.", buckets=COUNTS
)
DIALOGUE_WAVES = Metric(
    "mediround_dialogue_waves",
    MetricKind.HISTOGRAM,
    "Waves, and so language passes, per completed SegmentDialogue call.",
    buckets=COUNTS,
)
BATCH_MASKS = Metric(
    "mediround_decode_batch_masks",
    MetricKind.HISTOGRAM,
    "Masks per decode batch, all on one embedding.",
    unit="masks",
    buckets=COUNTS,
)
SCORE = Metric(
    "mediround_judge_score", MetricKind.HISTOGRAM, "The judge's scores, before correction.", buckets=SCORES
)
CORRECTABLE = Metric(
    "mediround_correctable_masks",
    MetricKind.COUNTER,
    "Masks that the request's policy allowed to be corrected.",
    unit="masks",
)
CORRECTED = Metric(
    "mediround_corrected_masks", MetricKind.COUNTER, "Masks whose feature was corrected.", unit="masks"
)
NEAR_THRESHOLD = Metric(
    "mediround_near_threshold_masks",
    MetricKind.COUNTER,
    f"Masks whose score lies within {NEAR} of the request's threshold.",
    unit="masks",
)
EMPTY = Metric("mediround_empty_masks", MetricKind.COUNTER, "Masks without a single pixel.", unit="masks")
NO_MASK = Metric("mediround_answers_without_mask", MetricKind.COUNTER, "Rounds answered without [SEG].")
PROMPTS = Metric(
    "mediround_prompts_in_progress",
    MetricKind.GAUGE,
    "Prompts that a language server has admitted: those in its engine and those in its queue.",
)
AHEAD = Metric(
    "mediround_encodes_ahead",
    MetricKind.COUNTER,
    "Encodes that began before a question asked for them, by outcome.",
    {"outcome": tuple(Ahead)},
)
SESSIONS = Metric("mediround_sessions_open", MetricKind.GAUGE, "Open sessions.")
SESSIONS_LIMIT = Metric("mediround_sessions_limit", MetricKind.GAUGE, "Most sessions that may be open.")
SESSION_BYTES = Metric(
    "mediround_session_bytes",
    MetricKind.GAUGE,
    "Bytes of images and masks of all sessions together.",
    unit="bytes",
)
ENGINE_UP = Metric(
    "mediround_engine_up",
    MetricKind.GAUGE,
    "1 if the engine accepts requests (last known), else 0. Always 1 of a half in the orchestrator's process: "
    "whether that works, calls tell.",
    {"engine": ENGINES},
)
ENGINE_INFO = Metric(
    "mediround_engine_info",
    MetricKind.GAUGE,
    "1; the engine's description is the label.",
    {"engine": ENGINES, "description": ()},
)
BUILD_INFO = Metric(
    "mediround_build_info", MetricKind.GAUGE, "1; the version of this program is the label.", {"version": ()}
)
MODEL_INFO = Metric(
    "mediround_model_info",
    MetricKind.GAUGE,
    "1; the bundle served. The digest is the first 12 digits of the one in every result.",
    {"name": (), "version": (), "digest": ()},
)

CATALOGUE = (
    *(declared for declared in tuple(globals().values()) if isinstance(declared, Metric)),
    *store_metrics.CATALOGUE,
)
"""All that there are, in this order."""


def index_label(index: int | None) -> str:
    """The label of a round's index; None: not known."""
    if index is None:
        return UNKNOWN_INDEX
    return INDICES[min(index, len(INDICES) - 1)]
