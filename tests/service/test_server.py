"""The server around the service: health, reflection, drain, TLS."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import Executor

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mediround import AccessDenied, AsyncClient, Client, NotFound, Tls, Unavailable
from serving import errors
from serving.__main__ import get_ready
from serving.api.server import SERVICE, Server, serving
from serving.llm.remote import RemoteLanguage
from tests.service.certificates import Authority
from tests.service.harness import Stage, picture
from tests.service.harness import stage as build_stage

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        return (await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=20)).status


async def test_health_says_serving_only_when_told(stage: Stage) -> None:
    server = Server(stage.service, "127.0.0.1:0")
    await server.start()
    try:
        assert [await health_of(server.address, name) for name in ("", SERVICE)] == [NOT_SERVING] * 2
        await server.ready()
        assert [await health_of(server.address, name) for name in ("", SERVICE)] == [SERVING] * 2
    finally:
        await server.drain(0)


async def test_the_warm_up_round_waits_for_a_busy_language_half(stage: Stage) -> None:
    for failure in (errors.Exhausted("full", 0.01), errors.Unavailable("lost", 0.01)):
        stage.language.script.fail_next("complete", failure)
    reached = asyncio.Event()

    class Remote(RemoteLanguage):
        """A language server that is there."""

        def __init__(self) -> None:
            """Reaches nobody."""

        async def reached(self) -> None:
            reached.set()

    await get_ready(stage.service._orchestrator, Remote())
    assert reached.is_set()
    assert len(stage.language.script.asked("complete")) == 4  # two that failed, then one a wave
    assert stage.sessions.count == 0


async def test_in_one_process_nobody_else_makes_room_for_the_warm_up_round(stage: Stage) -> None:
    stage.language.script.fail_next("complete", errors.Exhausted("full", 0.01))
    with pytest.raises(errors.Exhausted):
        await get_ready(stage.service._orchestrator)


async def test_reflection_names_the_services(server: Server) -> None:
    async with grpc.aio.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        async for answer in stub.ServerReflectionInfo(iter([asked]), timeout=20):
            names = {service.name for service in answer.list_services_response.service}
    assert names == {SERVICE, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}


async def test_a_drain_lets_rounds_finish(stage: Stage) -> None:
    server = Server(stage.service, "127.0.0.1:0")
    await server.start()
    await server.ready()
    watched = []

    async def watch() -> None:
        async with grpc.aio.insecure_channel(server.address) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            async for answer in stub.Watch(health_pb2.HealthCheckRequest(service=""), timeout=20):
                watched.append(answer.status)  # noqa: PERF401  # the stream ends in an error

    async with AsyncClient(server.address) as client:
        watcher = asyncio.create_task(watch())
        session = await client.open(picture())
        stage.language.script.hold("complete")
        asked = asyncio.create_task(session.ask("Segment the liver."))
        await stage.language.script.reached("complete")
        draining = asyncio.create_task(server.drain(20))
        await asyncio.sleep(0.2)
        async with AsyncClient(server.address) as late:
            with pytest.raises(Unavailable):
                await late.describe()
        stage.language.script.let_go("complete")
        assert (await asked).index == 0
        async with asyncio.timeout(5):  # who watches its health does not hold it up
            await draining
        await asyncio.gather(watcher, return_exceptions=True)
    assert watched == [SERVING, NOT_SERVING]


async def test_a_drain_does_not_wait_for_ever(stage: Stage) -> None:
    async with serving(stage.service, drain_seconds=0.2) as server:
        client = AsyncClient(server.address)
        session = await client.open(picture())
        stage.language.script.hold("complete")
        asked = asyncio.create_task(session.ask("Segment the liver."))
        await stage.language.script.reached("complete")
    with pytest.raises(Unavailable):
        await asked
    assert stage.language.script.running["complete"] == 0
    await client.close()


async def test_an_address_that_is_taken(server: Server, executor: Executor) -> None:
    other = Server(build_stage(executor).service, server.address)
    with pytest.raises(RuntimeError, match=r"(?i)bind"):
        await other.start()


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """The server's, and another one."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    directory = tmp_path_factory.mktemp("certificates")
    return Authority.make(directory / "ours"), Authority.make(directory / "theirs")


async def denied(address: str, tls: Tls | None, words: str) -> None:
    """Both clients say at once what is wrong for good, however it is asked."""
    async with AsyncClient(address, tls=tls) as client:
        for ask in (client.describe, client.ping, client.wait_until_ready, lambda: client.open(picture())):
            with pytest.raises(AccessDenied, match=words) as caught:
                await ask()
            assert not hasattr(caught.value, "retry_after")

    def blocking() -> None:
        with Client(address, tls=tls) as client:
            for ask in (client.describe, client.ping, client.wait_until_ready, lambda: client.open(picture())):
                with pytest.raises(AccessDenied, match=words):
                    ask()

    await asyncio.to_thread(blocking)


async def test_tls(stage: Stage, authorities: tuple[Authority, Authority]) -> None:
    ours, theirs = authorities
    async with serving(stage.service, tls=ours.server()) as server:
        async with AsyncClient(server.address, tls=Tls(ours.certificate)) as client:
            assert (await client.describe()).model_name == "made-up"
        for wrong, words in ((None, "the server speaks TLS"), (Tls(theirs.certificate), "not trusted here")):
            await denied(server.address, wrong, words)
        await denied(server.address.replace("127.0.0.1", "localhost"), Tls(ours.certificate), "another host")
    async with serving(stage.service) as server:
        await denied(server.address, Tls(ours.certificate), "does not speak TLS")
    async with serving(stage.service, tls=ours.server()) as server:

        def blocking() -> str:
            with Client(server.address, tls=Tls(ours.certificate.read_bytes())) as client:
                return client.describe().model_name

        assert await asyncio.to_thread(blocking) == "made-up"


async def test_mutual_tls_admits_only_known_clients(
    stage: Stage, authorities: tuple[Authority, Authority]
) -> None:
    ours, theirs = authorities
    async with serving(stage.service, tls=ours.server(client_ca=ours)) as server:
        known = ours.client("/CN=anna", "DNS:anna.example")
        async with AsyncClient(server.address, tls=known) as client:
            assert (await client.describe()).model_name == "made-up"
        stranger = theirs.client("/CN=anna", "DNS:anna.example", server_ca=ours)
        for unknown in (Tls(ours.certificate), stranger):
            await denied(server.address, unknown, "does not accept this client's certificate")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("/O=clinic/CN=anna", "DNS:shared.example"), ("/O=clinic/CN=ben", "DNS:shared.example")),
        (("/O=clinic/CN=anna", "DNS:shared.example"), ("/O=ward/CN=anna", "DNS:shared.example")),
        (("/", "URI:spiffe://clinic/anna"), ("/", "URI:spiffe://clinic/ben")),
    ],
)
async def test_callers_are_kept_apart(
    stage: Stage,
    authorities: tuple[Authority, Authority],
    one: tuple[str, str],
    other: tuple[str, str],
) -> None:
    ours, _ = authorities
    async with (
        serving(stage.service, tls=ours.server(client_ca=ours)) as server,
        AsyncClient(server.address, tls=ours.client(*one)) as anna,
        AsyncClient(server.address, tls=ours.client(*other)) as ben,
        AsyncClient(server.address, tls=ours.client(*one)) as again,
    ):
        session = await anna.open(picture())
        theirs = await ben.open(picture())
        assert not theirs.opening.upload_skipped
        # Ben sends the digest of what Anna alone has sent, then asks in Anna's session.
        ben._connection._sent = again._connection._sent = anna._connection._sent
        await anna.open(picture(seed=1))
        assert not (await ben.open(picture(seed=1))).opening.upload_skipped
        assert (await again.open(picture(seed=1))).opening.upload_skipped
        foreign = ben.session(session.session_id)
        with pytest.raises(NotFound):
            await foreign.ask("Segment the liver.")
        with pytest.raises(NotFound):
            await foreign.close()
        assert (await session.ask("Segment the liver.")).index == 0
        listed = [[each.session_id async for each in client.sessions()] for client in (anna, ben, again)]
        annas, bens, agains = map(set, listed)
        assert annas == agains > {session.session_id}
        assert bens
        assert not annas & bens
