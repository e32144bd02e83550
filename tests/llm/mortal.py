"""``python -m tests.llm.mortal``: the language server round a scripted engine that SIGUSR1 kills."""

from __future__ import annotations

import asyncio
import signal
import sys

from serving.bundle import Bundle
from serving.llm.__main__ import ServedEngine, main
from serving.llm.settings import LanguageServerSettings
from tests.scripted.language import ScriptedLanguage


async def build(bundle: Bundle, settings: LanguageServerSettings) -> ServedEngine:
    dead = asyncio.Event()
    language = ScriptedLanguage(bundle.manifest)

    def die() -> None:
        dead.set()
        language.script.hold("complete")  # it answers no more, and says nothing

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, die)

    async def died() -> None:
        await dead.wait()

    return ServedEngine(language, died)


if __name__ == "__main__":
    sys.exit(main(build))
