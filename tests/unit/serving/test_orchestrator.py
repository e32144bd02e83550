"""The order of work: waves against rounds one by one, policies, overlap, and what a failure leaves behind."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving import request_context
from serving.admission.permits import OpenGate
from serving.domain import (
    F32,
    AnswerMode,
    Correction,
    CorrectionPolicy,
    EncoderImage,
    Priority,
    Question,
    SourceImage,
    Tell,
)
from serving.errors import EngineFault, Exhausted, InvalidInput, InvalidQuestion, NotFound, PreconditionFailed
from serving.geometry import Geometry
from serving.history.rounds import RoundResult
from serving.offline import compose
from serving.orchestrator import Orchestrator
from serving.ports import Completion, DecodedMasks, EmbeddingLease, ExpectedWork, Place, Prompt
from serving.prompt import PromptTemplate
from serving.runtime.record import RuntimeRecord
from serving.sessions.plan import DialogueRequest
from serving.stores.embeddings import MemoryEmbeddings
from serving.stores.sessions import MemorySessions
from serving.wave import waves
from tests.scripted.language import ScriptedLanguage
from tests.scripted.vision import ScriptedVision
from tests.unit.serving.manifests import manifest
from tests.unit.serving.test_prompt import Characters

MANIFEST = manifest(
    language={
        "hidden": 8,
        "layers": 1,
        "kv_heads": 1,
        "head_dim": 8,
        "vocabulary": 2**21,
        "max_tokens": 4000,
        "feature": 256,
    }
)
IMAGE = np.random.default_rng(0).integers(1, 256, (48, 64, 3), np.uint8)
ALWAYS = Correction(CorrectionPolicy.ALWAYS, 0.6)
REFERENCED = Correction(CorrectionPolicy.REFERENCED, 0.6)
OFF = Correction(CorrectionPolicy.OFF, 0.6)


def generated(prompt: Prompt) -> tuple[tuple[int, ...], bool]:
    """ "ok" and [SEG], unless the last word asked for nothing."""
    asked = Characters().decode(tuple(i for i in prompt.token_ids[-20:] if 100 <= i < 2**21))
    return tuple(ord(c) + 100 for c in "ok "), "nothing" not in asked


@dataclass
class Stack:
    orchestrator: Orchestrator
    language: ScriptedLanguage
    vision: ScriptedVision
    embeddings: MemoryEmbeddings
    sessions: MemorySessions

    async def open(self, image: np.ndarray = IMAGE) -> str:
        return (await self.orchestrator.open("me", image)).session_id

    async def all(
        self, session: str, questions: Sequence[Question], correction: Correction = REFERENCED
    ) -> list[RoundResult]:
        return [result async for result in self.orchestrator.segment(session, "me", questions, correction)]


def stack(executor: ThreadPoolExecutor) -> Stack:
    language, vision = ScriptedLanguage(MANIFEST, generated), ScriptedVision(MANIFEST)
    embeddings = MemoryEmbeddings.of(MANIFEST.image, 4 * 256 * 64 * 64 * 4)
    sessions = MemorySessions(8, 1 << 26, 3600, time.monotonic)
    form, geometry = PromptTemplate(MANIFEST, Characters()), Geometry(MANIFEST.image, MANIFEST.tower, "encoder")
    orchestrator = compose(
        form, geometry, language, vision, executor, embeddings=embeddings, sessions=sessions, max_rounds=12
    )
    return Stack(orchestrator, language, vision, embeddings, sessions)


@pytest.fixture
async def serving() -> AsyncIterator[Stack]:
    with ThreadPoolExecutor(2) as executor:
        yield stack(executor)


def forced(text: str = "Where?", refer_to: int | None = None) -> Question:
    return Question(text, refer_to, AnswerMode.FORCED, "It is [SEG].")


def free(text: str = "Where?", refer_to: int | None = None) -> Question:
    return Question(text, refer_to, AnswerMode.FREE)


def dialogue(references: Sequence[int | None]) -> list[Question]:
    return [forced(f"Question {k}?", reference) for k, reference in enumerate(references)]


def essence(results: Sequence[RoundResult]) -> list[tuple[object, ...]]:
    return [
        (
            r.index,
            r.answer,
            r.segmentation
            and (r.segmentation.mask.packed.tobytes(), r.segmentation.score, r.segmentation.corrected),
            r.reference and r.reference.crop.digest,
        )
        for r in results
    ]


REFERENCES = st.lists(st.floats(0, 1), min_size=1, max_size=8).map(
    lambda draws: [
        None if k == 0 or draw < 0.3 else int((draw - 0.3) / 0.7001 * k) for k, draw in enumerate(draws)
    ]
)


@settings(max_examples=25, deadline=None)
@given(REFERENCES)
def test_waves_equal_rounds_one_by_one(references: list[int | None]) -> None:
    async def run() -> None:
        with ThreadPoolExecutor(2) as executor:
            serving = stack(executor)
            questions = dialogue(references)
            at_once = await serving.all(await serving.open(), questions, ALWAYS)
            passes, decodes = len(serving.language.script.calls), len(serving.vision.script.asked("decode"))
            assert passes == decodes == len(waves(questions, 0))
            assert [r.cache.wave for r in at_once] == [n for n, w in enumerate(waves(questions, 0)) for _ in w]
            session = await serving.open()
            one_by_one = [await serving.orchestrator.ask(session, "me", q, ALWAYS) for q in questions]
            assert essence(at_once) == essence(one_by_one)
            assert serving.vision.script.asked("encode") == serving.vision.script.asked("encode")[:1]

    asyncio.run(run())


async def test_a_star_takes_two_passes_and_decodes_its_rays_as_one_batch(serving: Stack) -> None:
    await serving.all(await serving.open(), dialogue([None, *[0] * 9]))
    assert len(serving.language.script.calls) == 2
    assert serving.vision.script.asked("decode") == [1, 9]
    assert len(serving.vision.script.asked("encode")) == 1


@pytest.mark.parametrize("shape", ["star", "chain", "star, live"])
async def test_what_is_counted_of_a_long_dialogue_bounds_what_it_holds(shape: str, serving: Stack) -> None:
    """Masks of 226 KB and crops of 2 KB, whether they come as one known dialogue or round by round."""
    count, image = serving.orchestrator.max_rounds, np.ascontiguousarray(IMAGE.repeat(28, 0).repeat(21, 1))
    first, *others = dialogue([None, *(k if shape == "chain" else 0 for k in range(count - 1))])
    session = await serving.open(image)
    await serving.all(session, [first])  # brings its embedding
    counted = serving.sessions.nbytes
    tracemalloc.start()
    for group in [[other] for other in others] if shape == "star, live" else [others]:
        await serving.all(session, group)
    for ahead in serving.orchestrator.crops._ahead.values():
        await asyncio.wrap_future(ahead.cut)
    await asyncio.sleep(0.2)  # for the cut before that one, which could be at work too
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = serving.sessions.nbytes - counted
    assert len(others) * image[..., 0].size // 8 <= counted
    assert held <= counted + 160 * 1024, "beside it only what the engines' scripts remember: less than a mask"
    rounds = (await serving.orchestrator.keeper.read(session, "me")).record.rounds
    assert len({id(each.reference.crop.pixels) for each in rounds[1:]}) == (count - 1 if shape == "chain" else 1)


async def test_referenced_judges_only_what_a_later_round_refers_to(serving: Stack) -> None:
    serving.vision._judge = lambda feature: 0.1
    results = await serving.all(await serving.open(), dialogue([None, None, 1, 1]), REFERENCED)
    assert [r.segmentation.corrected for r in results] == [False, True, False, False]
    for policy, expected in ((ALWAYS, True), (OFF, False)):
        results = await serving.all(await serving.open(), dialogue([None, 0]), policy)
        assert [r.segmentation.corrected for r in results] == [expected] * 2


async def test_the_image_is_encoded_beside_the_first_pass(serving: Stack) -> None:
    session = await serving.open()
    serving.language.script.hold("complete")
    serving.vision.script.hold("encode")
    asking = asyncio.create_task(serving.orchestrator.ask(session, "me", forced(), ALWAYS))
    await serving.language.script.reached("complete")
    await serving.vision.script.reached("encode")
    serving.vision.script.let_go("encode")
    serving.language.script.let_go("complete")
    first = await asking
    second = await serving.orchestrator.ask(session, "me", forced(), ALWAYS)
    assert (first.cache.embedding_hit, second.cache.embedding_hit) == (False, True)


async def test_simultaneous_first_rounds_on_one_image_encode_once(serving: Stack) -> None:
    serving.vision.script.delay_s = 0.02
    sessions = [await serving.open() for _ in range(4)]
    results = await asyncio.gather(*(serving.orchestrator.ask(s, "me", forced(), ALWAYS) for s in sessions))
    assert len(serving.vision.script.asked("encode")) == 1
    assert sorted(r.cache.embedding_hit for r in results) == [False, True, True, True]
    assert serving.embeddings.stats.leased == 0


async def test_rounds_of_one_session_keep_their_order_and_sessions_interleave(serving: Stack) -> None:
    mine, other = await serving.open(), await serving.open()
    serving.language.script.hold("complete")
    first = asyncio.create_task(serving.orchestrator.ask(mine, "me", forced("first"), ALWAYS))
    await serving.language.script.reached("complete")
    second = asyncio.create_task(serving.orchestrator.ask(mine, "me", forced("second", 0), ALWAYS))
    beside = asyncio.create_task(serving.orchestrator.ask(other, "me", forced("beside"), ALWAYS))
    await serving.language.script.reached("complete", 2)
    assert len(serving.language.script.calls) == 2, "the second round of a session waits, another session does not"
    serving.language.script.let_go("complete")
    assert [(await task).index for task in (first, second, beside)] == [0, 1, 0]


async def test_a_free_answer_without_seg_has_no_mask_and_cannot_be_referred_to(serving: Stack) -> None:
    session = await serving.open()
    result = await serving.orchestrator.ask(session, "me", free("Say nothing"), ALWAYS)
    assert (result.answer, result.segmentation) == ("ok", None)
    with pytest.raises(PreconditionFailed, match="round 0 has no mask"):
        await serving.orchestrator.ask(session, "me", forced(refer_to=0), ALWAYS)
    result = await serving.orchestrator.ask(session, "me", free("Then this"), ALWAYS)
    assert result.index == 1
    assert result.answer == "ok [SEG]."
    assert result.segmentation is not None


async def test_free_and_forced_rounds_mix_in_one_dialogue(serving: Stack) -> None:
    questions = [forced("a"), free("b"), forced("c", 1), free("nothing", 0)]
    results = await serving.all(await serving.open(), questions)
    assert [r.cache.wave for r in results] == [0, 0, 1, 1]
    assert [r.segmentation is None for r in results] == [False, False, False, True]


async def test_pixels_next_to_zero_are_those_of_each_rounds_logits(
    serving: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, session, random = [], await serving.open(), np.random.default_rng(1)

    def noise(lease: EmbeddingLease, feature: F32) -> F32:
        drawn.append(random.standard_normal((64, 64), np.float32))
        return drawn[-1]

    monkeypatch.setattr(serving.vision, "_logits", noise)
    questions = [forced(), forced("Another?"), free("nothing"), forced("It?", 0), free()]
    request = DialogueRequest(session, "me", questions, REFERENCED, near_zero=1.0)
    results = [each async for each in serving.orchestrator.answers(request)]
    geometry, image = serving.orchestrator.geometry, serving.orchestrator.geometry.source_image(IMAGE)
    expected = [np.abs(geometry.full_logits(each, image)) <= 1 for each in drawn]
    assert results[2].near_zero is None
    for result, bits in zip([each for each in results if each.near_zero], expected, strict=True):
        np.testing.assert_array_equal(result.near_zero.bits(), bits)
    monkeypatch.delattr(Geometry, "near_zero")
    assert (await serving.orchestrator.ask(session, "me", forced(), OFF)).near_zero is None, "nor is it computed"


@pytest.mark.parametrize("refer_to", [0, 3])
async def test_a_reference_to_a_round_that_does_not_exist(serving: Stack, refer_to: int) -> None:
    session = await serving.open()
    with pytest.raises(InvalidQuestion, match="must be absent: the session has no earlier round") as caught:
        await serving.orchestrator.ask(session, "me", forced(refer_to=refer_to), ALWAYS)
    assert (caught.value.position, caught.value.field) == (0, "refer_to")
    with pytest.raises(InvalidQuestion, match="must be the index of a round before round 1; it is 9") as caught:
        await serving.all(session, [forced(), forced(refer_to=9)])
    assert (caught.value.position, caught.value.field) == (1, "refer_to")
    assert not serving.language.script.calls


async def test_limits_are_named(serving: Stack) -> None:
    session = await serving.open()
    for questions, words in (
        (dialogue([None] * 13), "at most 12 rounds"),
        ([forced("x" * 5000)], "must fit 4000 tokens: shorten the question"),
        ([forced("x" * 2500)] * 2, "must fit 4000 tokens: ask fewer or shorter questions"),
    ):
        with pytest.raises(InvalidQuestion, match=words) as caught:
            await serving.all(session, questions)
        assert (caught.value.position, caught.value.field) == (None, "")
    with pytest.raises(InvalidQuestion, match="must be absent: the session has no earlier round"):
        await serving.all(session, [forced(refer_to=7)])
    assert len(await serving.all(session, dialogue([None] * 12))) == 12
    with pytest.raises(InvalidQuestion, match="at most 12 rounds, this one has 12; open a new one"):
        await serving.all(session, [forced()])
    session = await serving.open()
    await serving.all(session, [forced("x" * 2500)])
    with pytest.raises(InvalidQuestion, match="must fit 4000 tokens: open a new session"):
        await serving.all(session, [forced("x" * 2500)])


async def test_referenced_needs_a_known_future(serving: Stack) -> None:
    with pytest.raises(InvalidInput, match="known in advance"):
        await serving.orchestrator.ask(await serving.open(), "me", forced(), REFERENCED)


async def test_sessions_belong_to_their_caller(serving: Stack) -> None:
    session = await serving.open()
    with pytest.raises(NotFound):
        await serving.orchestrator.ask(session, "you", forced(), ALWAYS)
    with pytest.raises(NotFound):
        await serving.orchestrator.close(session, "you")
    await serving.orchestrator.close(session, "me")
    with pytest.raises(PreconditionFailed):
        await serving.orchestrator.ask(session, "me", forced(), ALWAYS)


@pytest.mark.parametrize(
    ("engine", "operation"), [("language", "complete"), ("vision", "encode"), ("vision", "decode")]
)
async def test_a_failed_round_leaves_the_session_as_it_was(serving: Stack, engine: str, operation: str) -> None:
    session = await serving.open()
    other = np.roll(IMAGE, 1, axis=0)
    untouched = await serving.open(other)
    getattr(serving, engine).script.fail_next(operation, Exhausted("later"))
    with pytest.raises(Exhausted):
        await serving.orchestrator.ask(session, "me", forced(), ALWAYS)
    assert serving.embeddings.stats.leased == 0
    assert (await serving.orchestrator.ask(session, "me", forced(), ALWAYS)).index == 0
    assert (await serving.orchestrator.ask(untouched, "me", forced(), ALWAYS)).index == 0


@pytest.mark.parametrize(
    ("engine", "operation"), [("language", "complete"), ("vision", "encode"), ("vision", "decode")]
)
async def test_a_cancelled_round_stops_its_work_and_frees_what_it_held(
    serving: Stack, engine: str, operation: str
) -> None:
    session = await serving.open()
    script = getattr(serving, engine).script
    script.hold(operation)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await serving.orchestrator.ask(session, "me", forced(), ALWAYS)
    assert not +script.running
    assert serving.embeddings.stats.leased == 0
    script.let_go(operation)
    result = await serving.orchestrator.ask(session, "me", forced(), ALWAYS)
    assert (result.index, result.segmentation is None) == (0, False)


async def test_a_late_failure_keeps_the_waves_already_sent(serving: Stack) -> None:
    session = await serving.open()
    results = []
    with pytest.raises(PreconditionFailed):
        async for result in serving.orchestrator.segment(
            session, "me", [forced("a"), free("nothing", 0), forced("c", 1)], REFERENCED
        ):
            results.append(result)  # noqa: PERF401  # what was received before the failure matters
    assert [r.index for r in results] == [0, 1]
    assert (await serving.orchestrator.ask(session, "me", forced("c", 0), ALWAYS)).index == 2


async def test_an_encoder_that_nobody_waited_for_fails_nobody(serving: Stack) -> None:
    session = await serving.open()
    serving.vision.script.fail_next("encode", Exhausted("later"))
    serving.language.script.hold("complete")
    asking = asyncio.create_task(serving.orchestrator.ask(session, "me", free("nothing"), ALWAYS))
    await serving.vision.script.reached("encode")
    serving.language.script.let_go("complete")
    result = await asking
    assert (result.index, result.segmentation, result.cache.embedding_hit) == (0, None, False)
    result = await serving.orchestrator.ask(session, "me", forced(), ALWAYS)
    assert (result.index, result.cache.embedding_hit) == (1, False)


async def test_a_wave_that_waits_for_the_encoder_says_so(serving: Stack) -> None:
    serving.vision.script.hold("encode")
    results = serving.orchestrator.segment(await serving.open(), "me", [free("nothing"), forced("b")], OFF)
    first = await anext(results)
    assert (first.segmentation, first.cache.embedding_hit) == (None, False)
    serving.vision.script.let_go("encode")
    second = await anext(results)
    assert not second.cache.embedding_hit
    assert second.timings.encode > 0
    await results.aclose()


async def test_a_reader_who_stops_early_gives_the_session_back(serving: Stack) -> None:
    session = await serving.open()
    results = serving.orchestrator.segment(session, "me", dialogue([None, 0, 1]), REFERENCED)
    await anext(results)
    await results.aclose()
    assert serving.embeddings.stats.leased == 0
    assert (await serving.orchestrator.ask(session, "me", forced(), ALWAYS)).index == 1


async def test_an_engine_that_breaks_its_contract_is_a_fault(
    serving: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await serving.open()
    complete = serving.language.complete

    async def one_too_many(prompt: Prompt) -> object:
        completion = await complete(prompt)
        return replace(completion, features=completion.features * 2)

    monkeypatch.setattr(serving.language, "complete", one_too_many)
    with pytest.raises(EngineFault):
        await serving.orchestrator.ask(session, "me", forced(), ALWAYS)


async def test_a_request_passes_the_gate_once_and_says_whether_it_was_done(serving: Stack) -> None:
    """Live or known in advance: work that was done counts as done, which the queue's throughput rests on."""
    passed: list[tuple[ExpectedWork, Priority, bool]] = []

    class Watching:
        @asynccontextmanager
        async def admitted(
            self, work: ExpectedWork, caller: str, priority: Priority, tell: Tell
        ) -> AsyncIterator[Place]:
            assert caller == "me"
            try:
                async with OpenGate().admitted(work, caller, priority, tell) as place:
                    yield place
            except BaseException:
                passed.append((work, priority, False))
                raise
            passed.append((work, priority, True))

    target = replace(serving.orchestrator, gate=Watching())
    session = await serving.open()
    await target.ask(session, "me", forced(), ALWAYS)
    star = dialogue([None, 0, 0])
    assert len([r async for r in target.segment(session, "me", star, REFERENCED, Priority.BATCH)]) == 3
    serving.language.script.fail_next("complete", Exhausted("later"))
    with pytest.raises(Exhausted):
        await target.ask(session, "me", forced(), ALWAYS)
    with pytest.raises(InvalidInput):
        await target.ask(session, "me", forced(refer_to=99), ALWAYS)  # nobody waits to be refused
    assert passed == [
        (ExpectedWork(encodes=1, passes=1, masks=1), Priority.INTERACTIVE, True),
        (ExpectedWork(encodes=0, passes=1, masks=3), Priority.BATCH, True),
        (ExpectedWork(encodes=0, passes=1, masks=1), Priority.INTERACTIVE, False),
    ]


async def test_an_image_whose_embedding_is_held_is_not_resized_again(
    serving: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    resize, resized = Geometry.encoder_image, list[SourceImage]()

    def counted(geometry: Geometry, image: SourceImage) -> EncoderImage:
        resized.append(image)
        return resize(geometry, image)

    monkeypatch.setattr(Geometry, "encoder_image", counted)
    sessions = [await serving.open(), await serving.open(IMAGE.copy())]
    assert resized == [], "an opening needs no embedding"
    first, second = [await serving.orchestrator.ask(each, "me", forced(), ALWAYS) for each in sessions]
    assert (first.cache.embedding_hit, second.cache.embedding_hit, len(resized)) == (False, True, 1)


@dataclass(frozen=True, slots=True)
class Watched:
    """Both engines, noting with which priority they are asked."""

    language: ScriptedLanguage
    vision: ScriptedVision
    seen: list[tuple[str, Priority]]
    description: str = "watched"
    encoder = decoder = RuntimeRecord("watched")

    async def complete(self, prompt: Prompt) -> Completion:
        self.seen.append(("complete", request_context.priority()))
        return await self.language.complete(prompt)

    async def encode(self, image: EncoderImage, lease: EmbeddingLease) -> RuntimeRecord:
        self.seen.append(("encode", request_context.priority()))
        return await self.vision.encode(image, lease)

    async def decode(self, lease: EmbeddingLease, features: F32, thresholds: F32) -> DecodedMasks:
        self.seen.append(("decode", request_context.priority()))
        return await self.vision.decode(lease, features, thresholds)

    async def close(self) -> None:
        """They stay the fixture's."""


async def test_engines_see_the_priority_of_the_request_and_its_reader_does_not(serving: Stack) -> None:
    """In every wave, whatever task reads it; two dialogues that one task reads in turn keep their own."""
    engines = Watched(serving.language, serving.vision, [])
    encoding = replace(serving.orchestrator.encoding, vision=engines)
    target = replace(serving.orchestrator, language=engines, vision=engines, encoding=encoding)
    batch = target.segment(await serving.open(), "me", dialogue([None, 0, 1]), ALWAYS, Priority.BATCH)
    other = await serving.open(np.roll(IMAGE, 1, axis=0))
    interactive = target.segment(other, "me", dialogue([None, 0]), ALWAYS, Priority.INTERACTIVE)

    async def seen(results: AsyncGenerator[RoundResult]) -> set[tuple[str, Priority]]:
        engines.seen.clear()
        await anext(results)
        assert request_context.priority() is Priority.INTERACTIVE, "the reader's own, as nobody set it"
        return set(engines.seen)

    every = ("complete", "encode", "decode")
    assert await seen(batch) == {(each, Priority.BATCH) for each in every}
    assert await seen(interactive) == {(each, Priority.INTERACTIVE) for each in every}
    assert await asyncio.create_task(seen(batch)) == {(each, Priority.BATCH) for each in ("complete", "decode")}
    with request_context.prioritised(Priority.BATCH):
        engines.seen.clear()
        await anext(interactive)
        assert {priority for _, priority in engines.seen} == {Priority.INTERACTIVE}
        assert request_context.priority() is Priority.BATCH
    assert await seen(batch) == {(each, Priority.BATCH) for each in ("complete", "decode")}
    for results in (batch, interactive):
        await results.aclose()
    engines.seen.clear()
    await target.ask(other, "me", forced(), ALWAYS, Priority.BATCH)
    assert {priority for _, priority in engines.seen} == {Priority.BATCH}


async def test_timings_are_of_the_round(serving: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    now, language, vision = [0.0], serving.language.script, serving.vision.script
    monkeypatch.setattr("serving.runtime.stopwatch.perf_counter", lambda: now[0])
    for script, operation in ((language, "complete"), (vision, "encode"), (vision, "decode")):
        script.hold(operation)
    asking = asyncio.create_task(serving.orchestrator.ask(await serving.open(), "me", forced(), ALWAYS))
    async with asyncio.timeout(10):
        await language.reached("complete")
        await vision.reached("encode")
        now[0] = 3.0
        language.let_go("complete")
        while "complete" not in language.finished:  # noqa: ASYNC110  # a script does not signal
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)  # the round reads the clock
        now[0] = 4.0
        vision.let_go("encode")
        await vision.reached("decode")
        now[0] = 9.0
        vision.let_go("decode")
    timings = (await asking).timings
    assert (timings.queue, timings.language, timings.encode) == (0.0, 3.0, 4.0)
    assert (timings.decode, timings.total) == (5.0, 9.0)
