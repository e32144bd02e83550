"""Prompts and completions on the internal wire: nothing is lost, and nothing is believed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.domain import SegFeature
from serving.errors import EngineFault, InvalidInput
from serving.llm.image_cache import ImageCache
from serving.llm.messages import (
    PicturesMissing,
    PromptReader,
    complete_request,
    completion,
    completion_message,
    pictures,
    runtime,
    runtime_message,
)
from serving.llm.v1 import language_pb2 as pb
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord
from tests.llm.harness import BUNDLE
from tests.scripted.pictures import tower_image
from tests.scripted.prompts import draft

MANIFEST = BUNDLE.manifest
RUNTIME = RuntimeRecord("onnxruntime", "1.32.0", "CPUExecutionProvider", "float32", 2)
PICTURE_BYTES = MANIFEST.tower.side**2 * 3
features = st.builds(
    lambda seed, log_probability: SegFeature(
        np.random.default_rng(seed).standard_normal(256, np.float32), log_probability
    ),
    st.integers(0, 99),
    st.floats(-200, 0),
)


def reader(picture_bytes: int = 1 << 20) -> PromptReader:
    return PromptReader(MANIFEST, 3, ImageCache(picture_bytes))


def request(prompt: Prompt) -> pb.CompleteRequest:
    return complete_request(prompt, BUNDLE.digest, set())


def two_rounds() -> Prompt:
    start = draft(MANIFEST).say(5).read().close()
    return start.refer(5).say(7).refer(6).say(8).read().prompt("name", 4, ensure_seg=True)


def assert_equal(first: Prompt, second: Prompt) -> None:
    for ours, theirs in zip(pictures(first), pictures(second), strict=True):
        assert ours.digest == theirs.digest
        assert np.array_equal(ours.pixels, theirs.pixels)
    for one, other in zip(first.references, second.references, strict=True):
        assert np.array_equal(one.box, other.box)
        assert replace(one, crop=first.image, box=other.box) == replace(other, crop=first.image, box=other.box)
    assert replace(first, image=second.image, references=()) == replace(second, references=())


def test_a_prompt_arrives_as_it_was() -> None:
    sent = two_rounds()
    message = pb.CompleteRequest.FromString(request(sent).SerializeToString())
    assert_equal(reader().prompt(message), sent)


@given(st.lists(features, max_size=3), st.lists(st.integers(0, 2**31), max_size=4), st.none() | features)
def test_a_completion_arrives_as_it_was(
    found: list[SegFeature], token_ids: list[int], generated: SegFeature | None
) -> None:
    sent = Completion(tuple(found), tuple(token_ids), generated, 600, 512, RUNTIME)
    message = pb.Completion.FromString(completion_message(sent).SerializeToString())
    read = completion(message, 256)
    assert (read.token_ids, read.prompt_tokens, read.cached_tokens) == (sent.token_ids, 600, 512)
    assert read.runtime == RUNTIME
    assert (read.generated is None) == (generated is None)
    pairs = list(zip(read.features, sent.features, strict=True))
    if generated and read.generated:
        pairs.append((read.generated, generated))
    for ours, theirs in pairs:
        assert ours.vector.dtype == np.float32
        assert np.array_equal(ours.vector, theirs.vector)
        assert ours.log_probability == theirs.log_probability


@pytest.mark.parametrize("record", [RUNTIME, RuntimeRecord("vllm", None, "cpu", None, 0, "v1"), RuntimeRecord("")])
def test_what_an_engine_does_not_say_stays_unsaid(record: RuntimeRecord) -> None:
    assert runtime(pb.Runtime.FromString(runtime_message(record).SerializeToString())) == record
    assert runtime(pb.Completion().runtime) == RuntimeRecord("")  # of a server that knows nothing of records


def test_a_feature_of_another_length_is_a_fault() -> None:
    message = pb.Completion(features=[pb.SegFeature(vector=b"\0" * 8)])
    with pytest.raises(EngineFault):
        completion(message, 256)


def test_pixels_are_sent_once_and_found_again() -> None:
    held = reader()
    shown = draft(MANIFEST).say(5).refer(5).say(6).refer(5).say(7).read().prompt()
    first = request(shown)
    assert [bool(each.crop.rgb) for each in first.references] == [True, False]
    assert_equal(held.prompt(first), shown)
    bare = complete_request(shown, BUNDLE.digest, {picture.digest for picture in pictures(shown)})
    assert bare.ByteSize() < 1000
    assert_equal(held.prompt(bare), shown)


def test_a_budget_too_small_for_one_picture_still_reads_a_whole_prompt() -> None:
    held = reader(picture_bytes=1)
    assert_equal(held.prompt(request(two_rounds())), two_rounds())
    assert held.pictures.nbytes == 0


def test_what_is_missing_is_named_and_what_came_is_held() -> None:
    held = reader()
    prompt = two_rounds()
    image, first, second = pictures(prompt)
    with pytest.raises(PicturesMissing) as missing:
        held.prompt(complete_request(prompt, BUNDLE.digest, {image.digest, second.digest}))
    assert missing.value.digests == {image.digest, second.digest}
    assert held.pictures.get("tenant", first.digest) is not None


def test_pictures_are_the_tenants_own() -> None:
    held = reader()
    prompt = two_rounds()
    held.prompt(request(prompt))
    everything = {picture.digest for picture in pictures(prompt)}
    with pytest.raises(PicturesMissing):
        held.prompt(complete_request(replace(prompt, tenant="other"), BUNDLE.digest, everything))


def test_a_wrong_digest_poisons_nothing() -> None:
    held = reader()
    message = request(two_rounds())
    claimed = tower_image(MANIFEST, 99)
    message.image.sha256 = bytes.fromhex(claimed.digest)
    with pytest.raises(InvalidInput, match=r"prompt\.image\.sha256"):
        held.prompt(message)
    assert held.pictures.get("tenant", claimed.digest) is None


def set_field(path: str, value: object) -> Callable[[pb.CompleteRequest], None]:
    def apply(message: pb.CompleteRequest) -> None:
        *owners, name = path.split(".")
        target: object = message
        for owner in owners:
            target = target[int(owner)] if owner.isdigit() else getattr(target, owner)  # type: ignore[index]
        if isinstance(value, list):
            del getattr(target, name)[:]
            getattr(target, name).extend(value)
        else:
            setattr(target, name, value)

    return apply


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (set_field("image.rgb", b"\0" * (PICTURE_BYTES - 1)), "prompt.image.rgb"),
        (set_field("image.rgb", b"\0" * PICTURE_BYTES), "prompt.image.sha256"),
        (set_field("image.sha256", b""), "prompt.image.sha256"),
        (set_field("references.1.crop.rgb", b"\0" * (PICTURE_BYTES + 1)), "prompt.references[1].crop.rgb"),
        (set_field("references.1.crop.sha256", b"\0" * 31), "prompt.references[1].crop.sha256"),
        (set_field("references.0.box", [0.0, 0.0, 1.0]), "prompt.references[0].box"),
        (set_field("references.0.box", [0.0, 0.0, 1.0, float("nan")]), "prompt.references[0].box"),
        (set_field("references.0.box", [0.0] * 100_000), "prompt.references[0].box"),
        (set_field("token_ids", [1] * 401), "prompt.token_ids"),
        (set_field("max_new_tokens", 2**62), "prompt.token_ids"),
        (set_field("feature_positions", [1] * 100), "prompt.feature_positions"),
        (set_field("dialogue", "d" * 5000), "prompt.dialogue"),
        (set_field("tenant", "t" * 5000), "prompt.tenant"),
    ],
)
def test_what_does_not_fit_names_its_field(change: Callable[[pb.CompleteRequest], None], field: str) -> None:
    message = request(two_rounds())
    change(message)
    with pytest.raises(InvalidInput) as refused:
        reader().prompt(message)
    assert refused.value.field == field


def test_too_many_references_name_the_limit() -> None:
    start = draft(MANIFEST)
    for seed in range(4):
        start = start.refer(seed).say(5)
    with pytest.raises(InvalidInput, match="at most 3"):
        reader().prompt(request(start.read().prompt()))


def test_the_largest_prompt_fits_a_message() -> None:
    start = draft(MANIFEST)
    for seed in range(3):
        start = start.refer(seed).say(5)
    full = replace(start, token_ids=(*start.token_ids, *[2**21 - 1] * 380)).read()
    assert request(full.prompt("d" * 4096, tenant="t" * 4096)).ByteSize() < reader().max_message_bytes


def test_the_least_recently_used_pictures_are_given_up() -> None:
    held = ImageCache(2 * PICTURE_BYTES)
    first, second, third = (tower_image(MANIFEST, seed) for seed in (1, 2, 3))
    for picture in (first, second, first, third):
        held.put("tenant", picture)
    assert held.nbytes == 2 * PICTURE_BYTES
    assert held.get("tenant", second.digest) is None
    assert held.get("tenant", first.digest) is first
    assert held.get("tenant", third.digest) is third
