"""A DICOMweb archive: asked which instances it has, for one of them, and to store objects; needs ``dicomweb``.

Credentials are never part of an address: ``~/.netrc`` has them, or MEDIROUND_DICOMWEB_TOKEN, a bearer's token.
Knows QIDO-RS, WADO-RS and STOW-RS. Does not know items.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests import RequestException, Session

from mediround.annotate.answers import AnswerTooLarge, AnswerTooSlow, BoundedAdapter
from mediround.annotate.errors import ItemError, SourceError
from mediround.annotate.items import MAX_FILE_BYTES
from mediround.annotate.sorting import grouped

TOKEN = "MEDIROUND_DICOMWEB_TOKEN"  # noqa: S105  # the variable's name
_PAGE = 500
"""Of what an archive is asked for at once; it may give fewer."""
MAX_PAGES, MAX_INSTANCES = 100_000, 100_000
"""Of the answers to a query that are not empty, and of a series, which is sorted in memory."""
_SECONDS = 60
"""Of one request, while nothing comes."""
MAX_PAGE_BYTES, MAX_PAGE_SECONDS = 64 << 20, 300
"""Of an answer that is JSON."""
MAX_INSTANCE_SECONDS = 600
"""Until an instance is there; its size is ``MAX_FILE_BYTES``."""
STUDY, SERIES, INSTANCE = "0020000D", "0020000E", "00080018"
"""Tags of their UIDs."""
_FIELDS = ["00280010", "00280011", "00280008", "00080016", "00200013"]
"""Rows, Columns, Number of Frames, SOP Class UID, Instance Number."""
_MOST_DIGITS = 6
_BESIDES = "the archive has others besides, which an earlier export stored: remove them there"
_MALFORMED = (RequestException, ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What reading an answer raises that is not as QIDO-RS says."""


def search(source: str) -> Iterator[dict[str, Any]]:
    """Instances that an address with a query finds, ``https://host/dicom-web?Modality=MR``, as DICOM JSON.

    The query is of series; series are listed first, then the instances of each.

    Raises:
        SourceError: the query is none of QIDO-RS, or the archive does not answer, or not as that says.
    """
    parts = urlsplit(source)
    filters = _filters(parts.query)
    base = parts._replace(query="", fragment="").geturl()
    with _answering():
        client = connect(base, MAX_PAGE_BYTES, MAX_PAGE_SECONDS)
        # On disk: an archive has more series than memory has room for, and is asked of each while it is listed.
        series = (
            (value(each, STUDY), False, value(each, SERIES)) for each in _pages(client.search_for_series, filters)
        )
        for (study, uid), _ in groupby(grouped(series)):
            yield from _instances(client, study, uid)


def segmentations(base: str, study: str) -> Iterator[dict[str, Any]]:
    """The same of a study's SEG objects. Raises SourceError."""
    with _answering():
        client = connect(base, MAX_PAGE_BYTES, MAX_PAGE_SECONDS)
        series = _pages(client.search_for_series, {"Modality": "SEG"}, study_instance_uid=study)
        for uid in sorted({value(each, SERIES) for each in series}):
            yield from _instances(client, study, uid)


def _filters(query: str) -> dict[str, str]:
    """Of series. QIDO-RS has no other way to say "or" than one query for each value."""
    pairs = parse_qsl(query)
    filters = dict(pairs)
    if len(filters) < len(pairs):
        words = "the query must name each attribute once: plan a job for each of its values"
        raise SourceError(words)
    if {"limit", "offset"} & filters.keys():
        raise SourceError("the query must have no limit and no offset: all that it finds is listed")
    return filters


def _instances(client: DICOMwebClient, study: str, series: str) -> Iterator[dict[str, Any]]:
    names = {"study_instance_uid": study, "series_instance_uid": series, "fields": _FIELDS}
    found = list(islice(_pages(client.search_for_instances, {}, **names), MAX_INSTANCES + 1))
    if len(found) > MAX_INSTANCES:
        raise SourceError(f"a series must have at most {MAX_INSTANCES} instances: leave it out of the query")
    for one in sorted(found, key=_place):
        yield one | {STUDY: {"Value": [study]}, SERIES: {"Value": [series]}}


@contextmanager
def _answering() -> Iterator[None]:
    """Raises SourceError for what an archive does that is not QIDO-RS."""
    try:
        yield
    except AnswerTooLarge as error:
        words = f"an answer of the archive is larger than {MAX_PAGE_BYTES >> 20} MiB: narrow the query"
        raise SourceError(words) from error
    except AnswerTooSlow as error:
        words = f"an answer of the archive takes longer than {MAX_PAGE_SECONDS} s: narrow the query"
        raise SourceError(words) from error
    except _MALFORMED as error:
        words = (
            f"the archive does not answer as DICOMweb does ({type(error).__name__}): see address and credentials"
        )
        raise SourceError(words) from error


def header(instance: Mapping[str, Any]) -> Dataset:
    """What is known of an instance, for those who read its header. Raises ItemError."""
    known = Dataset()
    known.SOPInstanceUID = value(instance, INSTANCE)
    for keyword, tag in (("Rows", "00280010"), ("Columns", "00280011"), ("NumberOfFrames", "00280008")):
        if text := value(instance, tag):
            if not text.isdecimal() or len(text) > _MOST_DIGITS:
                raise ItemError("BAD_DICOM", f"{keyword} must be a number")
            setattr(known, keyword, int(text))
    return known


def value(instance: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute of DICOM JSON; empty without one."""
    attribute = instance.get(tag)
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return str(values[0]) if isinstance(values, list) and values and values[0] is not None else ""


def address(base: str, instance: Mapping[str, Any]) -> str:
    """Of an instance, as the manifest holds it."""
    study, series, sop = (value(instance, tag) for tag in (STUDY, SERIES, INSTANCE))
    return f"{base.rstrip('/')}/studies/{study}/series/{series}/instances/{sop}"


def retrieve(uri: str) -> Dataset:
    """An instance. Raises ItemError."""
    base, _, rest = uri.partition("/studies/")
    study, _, series, _, instance = rest.split("/")
    try:
        client = connect(base, MAX_FILE_BYTES, MAX_INSTANCE_SECONDS)
        return client.retrieve_instance(study, series, instance)
    except AnswerTooLarge as error:
        raise ItemError("TOO_LARGE", f"the instance must hold at most {MAX_FILE_BYTES >> 20} MiB") from error
    except AnswerTooSlow as error:
        words = f"the archive must give an instance within {MAX_INSTANCE_SECONDS} s: ask it for fewer at once"
        raise ItemError("TOO_SLOW", words) from error
    except RequestException as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (404, 410):
            raise ItemError("SOURCE_GONE", "the archive no longer has the instance") from error
        raise ItemError(
            "UNREADABLE", f"the archive does not give the instance ({type(error).__name__})"
        ) from error
    except Exception as error:  # of pydicom, on what it was given
        raise ItemError("BAD_DICOM", f"the object cannot be read ({type(error).__name__})") from error


def store(base: str, objects: Sequence[Dataset]) -> str:
    """Store objects of one series that the archive does not have; why it has not these alone then, or nothing."""
    client = connect(base, MAX_PAGE_BYTES, MAX_PAGE_SECONDS)
    names = {str(one.SOPInstanceUID) for one in objects}
    try:
        there = _held(client, objects[0])
        if missing := [one for one in objects if str(one.SOPInstanceUID) not in there]:
            client.store_instances(missing)
            there = _held(client, objects[0])
    except _MALFORMED as error:
        return f"the archive did not take them ({type(error).__name__})"
    if names - there:
        return f"the archive has {len(names & there)} of {len(names)} after they were sent"
    return _BESIDES if there - names else ""


def counted(base: str, paths: Sequence[Path]) -> tuple[int, int]:
    """How many of these objects, files of one series, the archive does not have; and how many others of theirs.

    Raises:
        SourceError: it does not answer, or a file cannot be read.
    """
    tags = ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"]
    try:
        objects = [dcmread(path, specific_tags=tags, stop_before_pixels=True) for path in paths]
        names = {str(one.SOPInstanceUID) for one in objects}
    except (InvalidDicomError, OSError, AttributeError) as error:
        raise SourceError("an exported object cannot be read: export again") from error
    try:
        there = _held(connect(base, MAX_PAGE_BYTES, MAX_PAGE_SECONDS), objects[0])
        return len(names - there), len(there - names)
    except _MALFORMED as error:
        words = f"objects cannot be counted in the archive ({type(error).__name__}): see address and credentials"
        raise SourceError(words) from error


def _held(client: DICOMwebClient, one: Dataset) -> set[str]:
    """SOP Instance UIDs of its series."""
    series = {
        "study_instance_uid": str(one.StudyInstanceUID),
        "series_instance_uid": str(one.SeriesInstanceUID),
    }
    return {value(each, INSTANCE) for each in _pages(client.search_for_instances, {}, **series)} - {""}


def connect(base: str, max_bytes: int, max_seconds: float) -> DICOMwebClient:
    """A client each of whose answers is bounded. Raises SourceError: the address holds a password."""
    if urlsplit(base).username is not None:
        raise SourceError(f"an address must hold no credentials: put them into ~/.netrc, or a token into {TOKEN}")
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    session = Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, BoundedAdapter(max_bytes, max_seconds))
    client = DICOMwebClient(base, session, headers=headers, timeout=_SECONDS)
    client.set_http_retry_params(retry=False)  # it would ask again for an answer that was too large
    return client


def _pages(ask: Any, filters: Mapping[str, str], **names: Any) -> Iterator[dict[str, Any]]:
    """All that a query finds: an archive may give fewer at once than it is asked for, so an empty page alone is
    the end.
    """
    offset, seen = 0, set[bytes]()
    while page := ask(limit=_PAGE, offset=offset, search_filters=dict(filters), **names):
        if not isinstance(page, list) or not all(isinstance(one, dict) for one in page):
            raise ValueError("QIDO-RS answers with a list of objects")
        digest = sha256(json.dumps(page).encode()).digest()
        if digest in seen:
            raise SourceError("the archive gives the same page again: it must heed QIDO-RS's offset")
        if len(seen) == MAX_PAGES:
            raise SourceError(f"the archive must answer with at most {MAX_PAGES} pages: narrow the query")
        seen.add(digest)
        yield from page
        offset += len(page)


def _place(instance: Mapping[str, Any]) -> tuple[int, str]:
    number = value(instance, "00200013")
    return int(number) if number.isdecimal() else 0, value(instance, INSTANCE)
