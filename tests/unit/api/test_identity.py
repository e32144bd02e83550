"""Who calls, and how many at once."""

from __future__ import annotations

import pytest

from serving.admission.permits import Permits
from serving.api.identity import ANONYMOUS, caller_of
from serving.errors import Exhausted, Shed

SUBJECT, NAMES = "x509_subject", "x509_subject_alternative_name"


def test_who_is_not_authenticated_is_anonymous() -> None:
    assert caller_of({}) == ANONYMOUS
    assert caller_of({"transport_security_type": [b"ssl"], SUBJECT: [b""], NAMES: []}) == ANONYMOUS


def test_a_subject_and_an_alternative_name_are_never_the_same_caller() -> None:
    callers = [
        caller_of({SUBJECT: [b"CN=anna"], NAMES: [b"anna.example"]}),
        caller_of({SUBJECT: [b"CN=ben"], NAMES: [b"anna.example"]}),
        caller_of({SUBJECT: [b""], NAMES: [b"CN=anna"]}),
        caller_of({SUBJECT: [b"anonymous"]}),
        caller_of({SUBJECT: [b"CN=\xff"]}),
        caller_of({SUBJECT: [b"CN=\xfe"]}),
        ANONYMOUS,
    ]
    assert len(set(callers)) == len(callers)


def test_permits_are_given_back() -> None:
    admission = Permits(2, "rounds", Shed.REQUESTS)
    with admission.permit(), admission.permit():
        with pytest.raises(Exhausted, match="2 rounds are in progress") as caught, admission.permit():
            pass
        assert caught.value.retry_after > 0
    with pytest.raises(ValueError, match="work"), admission.permit():
        raise ValueError("work")
    assert admission.in_use == 0
