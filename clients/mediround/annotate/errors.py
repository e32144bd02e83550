"""What can go wrong with a job as a whole, and with one of its items, which is then a row of the index.

Knows the words. Does not know what raises them.
"""

from __future__ import annotations


class AnnotateError(Exception):
    """A command cannot begin or go on; the message says what must change. What is finished stays."""


class SourceError(AnnotateError):
    """A source as a whole cannot be listed: it is not there, or not what its kind must be."""


class JobError(AnnotateError):
    """A job's folder cannot be used as it is: it belongs to another program, or something in it is cut off."""


class NotNow(JobError):
    """It cannot be used now: another command is at work there, or a disk is full. The same command may do better
    later.
    """


class OtherRun(JobError):
    """The folder's manifest was made for another model, policy or preprocessing than the server has now."""


class Stopped(AnnotateError):
    """The run was given up before its end, because too many items failed, or its files cannot be used."""


class ItemError(Exception):
    """One item cannot be annotated; the run goes on. ``str(error)`` holds no path, name or identifier.

    Attributes:
        code: one upper-case word.
    """

    def __init__(self, code: str, words: str) -> None:
        super().__init__(words)
        self.code = code
