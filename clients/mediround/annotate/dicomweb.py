"""A DICOMweb archive: asked which instances it has, for one of them, and to store objects; needs ``dicomweb``.

Credentials are never part of an address: ``~/.netrc`` has them, or MEDIROUND_DICOMWEB_TOKEN, a bearer's token.
Knows QIDO-RS, WADO-RS and STOW-RS. Does not know items.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from dicomweb_client.api import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from requests import RequestException

from mediround.annotate.errors import ItemError, SourceError

TOKEN = "MEDIROUND_DICOMWEB_TOKEN"  # noqa: S105  # the variable's name
_PAGE = 500
"""Of what an archive is asked for at once."""
_SECONDS = 60
"""Of one request, while nothing comes."""
_FIELDS = ["00280010", "00280008", "00080016", "00200013"]
"""Rows, Number of Frames, SOP Class UID, Instance Number."""


def search(source: str) -> Iterator[dict[str, Any]]:
    """Instances that an address with a query finds, ``https://host/dicom-web?Modality=MR``, as DICOM JSON.

    The query is of series; series are listed first, then the instances of each.

    Raises:
        SourceError: the archive does not answer, or not as QIDO-RS says.
    """
    parts = urlsplit(source)
    filters = dict(parse_qsl(parts.query))
    base = parts._replace(query="", fragment="").geturl()
    try:
        client = connect(base)
        series = {value(each, "0020000E"): each for each in _pages(client.search_for_series, filters)}
        for uid, each in series.items():
            study = value(each, "0020000D")
            names = {"study_instance_uid": study, "series_instance_uid": uid, "fields": _FIELDS}
            found = {value(one, "00080018"): one for one in _pages(client.search_for_instances, {}, **names)}
            for one in sorted(found.values(), key=_place):
                yield one | {"0020000D": {"Value": [study]}, "0020000E": {"Value": [uid]}}
    except (RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        words = (
            f"the archive does not answer as DICOMweb does ({type(error).__name__}): see address and credentials"
        )
        raise SourceError(words) from error


def value(instance: Mapping[str, Any], tag: str) -> str:
    """The first value of an attribute of DICOM JSON; empty without one."""
    found = instance.get(tag, {}).get("Value") or [""]
    return str(found[0])


def address(base: str, instance: Mapping[str, Any]) -> str:
    """Of an instance, as the manifest holds it."""
    study, series, sop = (value(instance, tag) for tag in ("0020000D", "0020000E", "00080018"))
    return f"{base.rstrip('/')}/studies/{study}/series/{series}/instances/{sop}"


def retrieve(uri: str) -> Dataset:
    """An instance. Raises ItemError."""
    base, _, rest = uri.partition("/studies/")
    study, _, series, _, instance = rest.split("/")
    try:
        return connect(base).retrieve_instance(study, series, instance)
    except RequestException as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (404, 410):
            raise ItemError("SOURCE_GONE", "the archive no longer has the instance: plan again") from error
        raise ItemError(
            "UNREADABLE", f"the archive does not give the instance ({type(error).__name__})"
        ) from error
    except Exception as error:  # of pydicom, on what it was given
        raise ItemError("BAD_DICOM", f"the object cannot be read ({type(error).__name__})") from error


def store(base: str, objects: Sequence[Dataset]) -> str:
    """Store objects of one series that the archive does not have; why it has not got them all then, or nothing."""
    client = connect(base)
    names = {str(one.SOPInstanceUID) for one in objects}
    try:
        there = _held(client, objects[0])
        if missing := [one for one in objects if str(one.SOPInstanceUID) not in there]:
            client.store_instances(missing)
            there = _held(client, objects[0])
    except (RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"the archive did not take them ({type(error).__name__})"
    return "" if names <= there else f"the archive has {len(names & there)} of {len(names)} after they were sent"


def lacking(base: str, paths: Sequence[Path]) -> int:
    """How many of these objects, files of one series, the archive does not have.

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
        return len(names - _held(connect(base), objects[0]))
    except (RequestException, ValueError, KeyError, TypeError, AttributeError) as error:
        words = f"objects cannot be counted in the archive ({type(error).__name__}): see address and credentials"
        raise SourceError(words) from error


def _held(client: DICOMwebClient, one: Dataset) -> set[str]:
    """SOP Instance UIDs of its series."""
    series = {
        "study_instance_uid": str(one.StudyInstanceUID),
        "series_instance_uid": str(one.SeriesInstanceUID),
    }
    return {value(each, "00080018") for each in _pages(client.search_for_instances, {}, **series)}


def connect(base: str) -> DICOMwebClient:
    """Raises SourceError: the address holds a password."""
    if urlsplit(base).username is not None:
        raise SourceError(f"an address must hold no credentials: put them into ~/.netrc, or a token into {TOKEN}")
    token = os.environ.get(TOKEN)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    return DICOMwebClient(base, headers=headers, timeout=_SECONDS)


def _pages(ask: Any, filters: Mapping[str, str], **names: Any) -> Iterator[dict[str, Any]]:
    offset = 0
    while page := ask(limit=_PAGE, offset=offset, search_filters=dict(filters), **names):
        yield from page
        offset += len(page)
        if len(page) < _PAGE:
            return


def _place(instance: Mapping[str, Any]) -> tuple[int, str]:
    number = value(instance, "00200013")
    return int(number) if number.isdecimal() else 0, value(instance, "00080018")
