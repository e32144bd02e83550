"""What the dashboard shows, and in which order.

Knows metrics, units and titles. Does not know how a query is written, nor Grafana's form.
"""

from __future__ import annotations

from deploy.grafana.batch import BATCH
from deploy.grafana.kept_sessions import KEPT_SESSIONS
from deploy.grafana.panel import Panel, Row
from deploy.grafana.queries import Query, gauge, quantile, quantiles, rate, ratio

INTERACTIVE = 'priority="interactive"'
FIRST, LATER = f'{INTERACTIVE},index="0"', f'{INTERACTIVE},index!="0"'
FAULTS = 'code=~"INTERNAL|UNAVAILABLE"'
LATENCY = (0.5, 0.95, 0.99)
HITS, MISSES = rate("mediround_cache_hits_total", "cache"), rate("mediround_cache_misses_total", "cache")
ROWS = (
    Row(
        "Service",
        (
            Panel("Rounds, by status", "reqps", [Query("{{code}}", rate("mediround_rounds_total", "code"))]),
            Panel(
                "Failed by our fault, of rounds",
                "percentunit",
                [Query("5 min", 'job:mediround_round_errors:ratio_rate5m{job=~"$job"}')],
                "INTERNAL and UNAVAILABLE. The objective leaves 0.5 %.",
            ),
            Panel(
                "Calls that fail by our fault",
                "reqps",
                [Query("{{method}}, {{code}}", rate("mediround_calls_total", "method, code", FAULTS))],
                "INTERNAL and UNAVAILABLE, of all calls: where a session cannot be opened, no round is asked.",
            ),
            Panel(
                "Slower than 1 s, of interactive rounds",
                "percentunit",
                [Query("5 min", 'job:mediround_round_slow:ratio_rate5m{job=~"$job"}')],
                "The objective leaves 5 %. Batch rounds, which may wait, do not count.",
            ),
            Panel(
                "Seconds of an interactive first round",
                "s",
                quantiles(LATENCY, "mediround_round_seconds", FIRST),
            ),
            Panel(
                "Seconds of an interactive later round",
                "s",
                quantiles(LATENCY, "mediround_round_seconds", LATER),
            ),
            Panel(
                "p95 of each stage",
                "s",
                [Query("{{stage}}", quantile(0.95, "mediround_stage_seconds", "stage"))],
                "Stages overlap: the image is encoded while the language half reads.",
            ),
        ),
    ),
    Row(
        "Load",
        (
            Panel(
                "Requests worked on, and waiting",
                "short",
                [
                    Query("worked on, {{priority}}", gauge("mediround_requests_in_progress", "priority")),
                    Query("waiting, {{priority}}", gauge("mediround_queue_requests", "priority")),
                ],
            ),
            Panel(
                "Longest wait, and work that waits",
                "s",
                [
                    Query("longest, {{priority}}", 'max by (priority) (mediround_queue_age_seconds{job=~"$job"})'),
                    Query("work, {{priority}}", gauge("mediround_queue_cost_seconds", "priority")),
                ],
            ),
            Panel("Refused, by limit", "reqps", [Query("{{reason}}", rate("mediround_shed_total", "reason"))]),
            Panel("Calls, by method", "reqps", [Query("{{method}}", rate("mediround_calls_total", "method"))]),
            Panel(
                "Sessions, of those allowed",
                "percentunit",
                [
                    Query(
                        "{{instance}}",
                        f"{gauge('mediround_sessions_open', 'instance')}"
                        f" / {gauge('mediround_sessions_limit', 'instance')}",
                    )
                ],
            ),
            Panel(
                "Bytes of sessions", "bytes", [Query("{{instance}}", gauge("mediround_session_bytes", "instance"))]
            ),
        ),
    ),
    KEPT_SESSIONS,
    Row(
        "Work saved",
        (
            Panel(
                "Found, of lookups",
                "percentunit",
                [Query("{{cache}}", f"{HITS} / ({HITS} + {MISSES})")],
            ),
            Panel(
                "Bytes of caches, of those allowed",
                "percentunit",
                [
                    Query(
                        "{{cache}}",
                        f"{gauge('mediround_cache_bytes', 'cache')}"
                        f" / {gauge('mediround_cache_limit_bytes', 'cache')}",
                    )
                ],
            ),
            Panel(
                "Given up, a second", "ops", [Query("{{cache}}", rate("mediround_cache_evictions_total", "cache"))]
            ),
            Panel("Prompt tokens", "ops", [Query("{{source}}", rate("mediround_prompt_tokens_total", "source"))]),
            Panel(
                "Of a dialogue known in advance",
                "short",
                [
                    Query("rounds", ratio("mediround_dialogue_rounds_sum", "mediround_dialogue_rounds_count")),
                    Query("waves", ratio("mediround_dialogue_waves_sum", "mediround_dialogue_waves_count")),
                ],
                "Means. One language pass a wave.",
            ),
            Panel(
                "Masks decoded together",
                "short",
                [Query("mean", ratio("mediround_decode_batch_masks_sum", "mediround_decode_batch_masks_count"))],
            ),
        ),
    ),
    Row(
        "Where embeddings lie",
        (
            Panel(
                "Embeddings, by place",
                "short",
                [
                    Query("held, {{place}}", gauge("mediround_embeddings_held", "place")),
                    Query("leased, {{place}}", gauge("mediround_embeddings_leased", "place")),
                ],
                "Shared: memory that Triton maps. What is leased neither leaves nor moves.",
            ),
            Panel(
                "Embeddings that found no slot, a second",
                "ops",
                [Query("{{reason}}", rate("mediround_embeddings_outside_total", "reason"))],
                "The slab is too small when this goes on.",
            ),
            Panel(
                "Slots of shared memory",
                "short",
                [Query("{{slab}}, {{state}}", gauge("mediround_slab_slots", "slab, state"))],
                "Withheld: its writer was lost; free again when another Triton process maps the memory.",
            ),
            Panel(
                "Calls of Triton, by the embedding's way",
                "reqps",
                [Query("{{call}}, {{embedding}}", rate("mediround_triton_calls_total", "call, embedding"))],
            ),
            Panel(
                "Tensors to and from Triton by gRPC",
                "Bps",
                [Query("{{direction}}", rate("mediround_triton_tensor_bytes_total", "direction"))],
            ),
            Panel(
                "Triton lost and found",
                "ops",
                [
                    Query("asked again", rate("mediround_triton_retries_total")),
                    Query("handshakes", rate("mediround_triton_handshakes_total")),
                    Query("asked to map memory", rate("mediround_triton_mappings_total")),
                ],
            ),
        ),
    ),
    Row(
        "Model",
        (
            Panel(
                "Shares of masks",
                "percentunit",
                [
                    Query(
                        "corrected", ratio("mediround_corrected_masks_total", "mediround_correctable_masks_total")
                    ),
                    Query(
                        "score near its threshold",
                        ratio("mediround_near_threshold_masks_total", "mediround_judge_score_count"),
                    ),
                    Query("empty", ratio("mediround_empty_masks_total", "mediround_decode_batch_masks_sum")),
                ],
                "Corrected: of those whose request lets them be. Near its threshold: of those with a score.",
            ),
            Panel(
                "The judge's scores",
                "short",
                quantiles((0.1, 0.5, 0.9), "mediround_judge_score"),
            ),
            Panel(
                "Answers without a mask",
                "reqps",
                [Query("a second", rate("mediround_answers_without_mask_total"))],
            ),
        ),
    ),
    Row(
        "Engines",
        (
            Panel(
                "Can be asked", "bool", [Query("{{engine}}", 'min by (engine) (mediround_engine_up{job=~"$job"})')]
            ),
            Panel(
                "Seconds of one piece of work",
                "s",
                [Query("{{work}}", 'max by (work) (mediround_expected_work_seconds{job=~"$job"})')],
                "As admission reckons, when nothing else runs.",
            ),
            Panel("Language passes", "ops", [Query("a second", rate("mediround_language_passes_total"))]),
            Panel(
                "vLLM: requests",
                "short",
                [
                    Query("running", "sum (vllm:num_requests_running)"),
                    Query("waiting", "sum (vllm:num_requests_waiting)"),
                ],
            ),
            Panel(
                "vLLM: keys and values in use", "percentunit", [Query("{{instance}}", "vllm:kv_cache_usage_perc")]
            ),
            Panel(
                "vLLM: prompt tokens found",
                "percentunit",
                [
                    Query(
                        "share",
                        "sum (rate(vllm:prefix_cache_hits_total[$__rate_interval]))"
                        " / sum (rate(vllm:prefix_cache_queries_total[$__rate_interval]))",
                    )
                ],
            ),
            Panel(
                "Triton: requests in one run",
                "short",
                [
                    Query(
                        "{{model}}",
                        "sum by (model) (rate(nv_inference_count[$__rate_interval]))"
                        " / sum by (model) (rate(nv_inference_exec_count[$__rate_interval]))",
                    )
                ],
            ),
            Panel(
                "Triton: seconds in its queue, a request",
                "s",
                [
                    Query(
                        "{{model}}",
                        "sum by (model) (rate(nv_inference_queue_duration_us[$__rate_interval]))"
                        " / sum by (model) (rate(nv_inference_request_success[$__rate_interval])) / 1e6",
                    )
                ],
            ),
            Panel(
                "Triton: failures",
                "reqps",
                [
                    Query(
                        "{{model}}, {{reason}}",
                        "sum by (model, reason) (rate(nv_inference_request_failure[$__rate_interval]))",
                    )
                ],
            ),
        ),
    ),
    BATCH,
)
