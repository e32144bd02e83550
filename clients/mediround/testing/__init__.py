"""Servers for tests of programs that use this client: scripted, or the real one.

    from mediround import Client, Unavailable
    from mediround.testing import Answer, serve

    script = {
        "Segment the liver.": Answer(mask=liver, score=0.93),
        "Segment the tumour.": [Unavailable("busy", retry_after=0.1), Answer(mask=None)],  # first so, then so
    }
    with serve(script) as server, Client(server.address) as client:
        ...
    assert [question.text for question in server.asked] == [...]

``async with serve(...)`` is the same. A scripted server keeps sessions, rounds, masks and requests, and refuses
what the real service refuses, in the same words; it looks at no pixel and counts no tokens. ``serve(bundle=...)``
starts the real server where mediround-serving is installed. Begin with ``script`` for what a script may say.

Needs nothing beyond the client, of which nothing may import it.
"""

from mediround.testing._serve import (
    ScriptedServer,
    ServerNotInstalled,
    ServerNotStarted,
    ServerProcess,
    Serving,
    serve,
)
from mediround.testing.script import DESCRIPTION, Answer, AskedQuestion, Reply, Script, centre

__all__ = [
    "DESCRIPTION",
    "Answer",
    "AskedQuestion",
    "Reply",
    "Script",
    "ScriptedServer",
    "ServerNotInstalled",
    "ServerNotStarted",
    "ServerProcess",
    "Serving",
    "centre",
    "serve",
]
