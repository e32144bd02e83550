"""The client for threads and scripts.

Knows what can be asked, by calls that block. What is sent and what comes back is made elsewhere, once for both
clients; so is the connection (``mediround._blocking``).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import NoReturn, Self

from mediround._blocking import BlockingConnection
from mediround._blocking_session import BlockingCalls
from mediround._calls import RETRIES, Call, CallDefaults, new_session_id
from mediround._connection import not_copied
from mediround._description import ServerDescription, server_description
from mediround._overlay import remembered
from mediround._readiness import Readiness
from mediround._replay import Replay, checked
from mediround._rounds import DialogueCorrection, Priority, Round, checked_rounds, priority_value
from mediround._sessions import SessionState, Watch
from mediround._tls import Tls
from mediround.errors import MediRoundError
from mediround.history import SessionSummary, session_summary
from mediround.image import ImageSource, chosen, upload
from mediround.results import RoundResult, taken_up
from mediround.session import Session
from mediround.v1 import segmentation_pb2 as pb
from mediround.window import WindowChoice


class Client:
    """A connection to one server, for any number of sessions and threads. Close it, or use it in a ``with``.

    Every call raises ``MediRoundError``s alone, and ``OSError`` where a path cannot be read. Calls that the
    server says it did not begin are sent again by themselves, ``retries`` times at most and within ``timeout``; so
    are, after a broken connection, those of a session whose server answers a repeated request as it did the first.
    """

    def __init__(
        self,
        address: str,
        *,
        tls: Tls | None = None,
        timeout: float | None = None,
        retries: int = RETRIES,
        http_proxy: bool = False,
    ) -> None:
        """Connect when first needed.

        Args:
            address: ``host:port``, ``[IPv6]:port`` or ``unix:/path``.
            tls: None speaks plain text: only within one machine.
            timeout: seconds that a call may take, all its attempts together, unless it is given others; ``inf``
                for no end. None: 60, and 300 with priority ``batch``.
            retries: how often a call is sent again where the server says when to come again, and that it did not
                begin.
            http_proxy: whether to go through the proxy that the environment names (``http_proxy``).

        Raises:
            InvalidArgument: the address cannot be one, or another argument is not what it must be.
        """
        defaults = CallDefaults.of(timeout, retries)
        self._connection = BlockingConnection(address, tls, defaults, http_proxy=http_proxy)

    def open(
        self,
        image: ImageSource,
        *,
        frame: int | None = None,
        window: WindowChoice = None,
        keep: bool = False,
        replay: bool = False,
        priority: Priority = "interactive",
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Session:
        """Open a session on one image; close it, or use it in a ``with``.

        Args:
            image: see ``mediround.image.PlainSource``.
            frame: which frame of a DICOM object, from 1; needed where it has several.
            window: what makes 8 bits of a DICOM object's stored values, or of an int16 or uint16 array
                (``mediround.window.WindowChoice``). The results say which one it was (``RoundResult.pixels``).
            priority: ``batch`` lets the images of interactive callers go first on a busy server.
            keep: the session is somebody's work: leaving its block, or closing the client, leaves it open for
                ``client.resume``; ``session.close()`` still ends it. How long it stays is the server's to say
                (``session.expires_at``).
            replay: keep the image, and each round's words and masks, here too: at most 128 MiB, as they are sent.
                A session that is lost, by a server's restart or because it expired, is then opened anew under
                another id, by the call that finds it so and once a call; results from before still name its
                rounds. What is asked next meets the same dialogue and the same masks.
            timeout: seconds, all attempts together; None is the client's.
            retries: how often it is sent again; None is the client's.
        """
        queued, session_id = priority_value(priority), new_session_id()
        call = self._opening(session_id, timeout, retries, priority)
        image = chosen(image, frame, window)
        sent = upload(image).prioritised(queued)
        held = checked(sent) if replay else None
        opened = self._connection.open(sent.named(session_id, keep=bool(keep)), call)
        if not keep:
            self._connection.sessions.add(opened.session_id)
        remade = None if held is None else Replay.of(held, opened, keep=bool(keep))
        state = SessionState.opened(opened, remembered(image), keep=keep, replay=remade)
        return Session(self._connection, state)

    def resume(
        self,
        session_id: str,
        image: ImageSource | None = None,
        *,
        frame: int | None = None,
        window: WindowChoice = None,
        replay: bool = False,
        timeout: float | None = None,
        retries: int | None = None,
    ) -> Session:
        """Take up a session that was kept, here or in another process; closing the client does not close it.

        Args:
            session_id: its id; whoever knows it may ask in it, so it must not be logged.
            image: the image that it was opened on, in the same bytes: needed where a call has raised
                ``NeedsImage``.
            frame: as it was opened with.
            window: the same.
            replay: as ``open``'s, of the rounds that it has now: each of their masks is read once. With an image.
            timeout: seconds that each of its calls may take; None is the client's.
            retries: how often each is sent again; None is the client's.

        Raises:
            SessionExpired, SessionClosed, NotFound: it is gone; open a new one.
        """
        state, again = SessionState(taken_up(session_id)), None
        if image is not None:
            image = chosen(image, frame, window)
            again = upload(image).named(session_id, resume=True)
            self._connection.open(again, self._opening(session_id, timeout, retries))
            state = SessionState.resumed(state.opening, again, remembered(image))
        session = Session(self._connection, state)
        if replay:
            BlockingCalls(self._connection, state).remember(checked(again), timeout, retries)
        else:
            session.history(timeout=timeout, retries=retries)
        return session

    def sessions(self, *, timeout: float | None = None, retries: int | None = None) -> Generator[SessionSummary]:
        """Your sessions, the latest opened first. The times are those of each page of them.

        Raises:
            FailedPrecondition: the server does not know you by a certificate (``Tls``).
        """
        request = pb.ListSessionsRequest()
        while True:
            call = self._connection.defaults.call(timeout, retries)
            page = self._connection.unary(self._connection.stub.ListSessions, request, call)
            yield from map(session_summary, page.sessions)
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    def session(self, session_id: str) -> Session:
        """Take up a session whose id is known, without asking the server: its next call says ``NotFound`` if it is
        gone. Leaving its block closes it, unless it is known to be kept; closing the client does not.
        """
        return Session(self._connection, SessionState(taken_up(session_id)))

    def segment(
        self,
        image: ImageSource,
        rounds: Sequence[Round],
        *,
        frame: int | None = None,
        window: WindowChoice = None,
        correction: DialogueCorrection = "referenced",
        threshold: float | None = None,
        priority: Priority = "interactive",
        near_zero: float | None = None,
        timeout: float | None = None,
        retries: int | None = None,
        progress: Watch | None = None,
    ) -> Generator[RoundResult]:
        """Ask a whole dialogue on one image; yields each result as soon as it is known, in order. ``progress`` is
        told where the request stands meanwhile.
        """
        rounds = checked_rounds(rounds)
        opened = self.open(image, frame=frame, window=window, priority=priority, timeout=timeout, retries=retries)
        with opened as session:
            yield from session.segment(
                rounds,
                correction=correction,
                threshold=threshold,
                priority=priority,
                near_zero=near_zero,
                timeout=timeout,
                retries=retries,
                progress=progress,
            )

    def describe(self, *, timeout: float | None = None, retries: int | None = None) -> ServerDescription:
        """Ask which model is served, with which limits and modes."""
        call = self._connection.defaults.call(timeout, retries)
        request = pb.DescribeServerRequest()
        return server_description(self._connection.unary(self._connection.stub.DescribeServer, request, call))

    def ping(self, *, timeout: float | None = None) -> float:
        """Ask the server whether it serves; seconds that the answer took. Raises Unavailable when it does not."""
        call = self._connection.defaults.call(timeout, retries=0)
        self._connection.ping(call)
        return call.taken

    def wait_until_ready(self, timeout: float = 60.0) -> None:
        """Return when the server serves.

        Raises:
            DeadlineExceeded: it did not within ``timeout`` seconds; the message says what it last said.
            AccessDenied: it never will, with these certificates.
        """
        waiting = Readiness(self._connection.defaults.call(timeout))
        while True:
            attempt = waiting.attempt()
            try:
                return self._connection.ping(attempt)
            except MediRoundError as error:
                time.sleep(waiting.pause(error))

    def close(self) -> None:
        """Close the sessions that were opened here, give up the calls that are under way, close the connection."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        not_copied(self)

    def _opening(
        self, session_id: str, timeout: float | None, retries: int | None, priority: Priority = "interactive"
    ) -> Call:
        """A call that opens a session of this id, and begins now. Raises InvalidArgument."""
        repeatable = self._connection.remembers
        return self._connection.defaults.call(
            timeout, retries, priority, session_id=session_id, repeatable=repeatable
        )
