"""`If-None-Match` as RFC 9110 section 13.1.2 has it."""

from __future__ import annotations

import pytest
from scalable_fastapi_system.web.conditional import has_current, weak_tag


@pytest.mark.parametrize("tag", ['"a,b"', 'W/"a,b"'])
@pytest.mark.parametrize("asked", ['"a,b"', 'W/"a,b"', '"x", W/"a,b" ,"y"', '"x","a,b"', "*", " * "])
def test_a_tag_in_the_list_or_a_star_names_what_the_client_has(asked: str, tag: str) -> None:
    assert has_current(asked, tag)


@pytest.mark.parametrize("asked", [None, "", '"a"', '"A,B"', "a,b", '"x, a,b', "W/", '"*"', '"a,b'])
def test_anything_else_does_not(asked: str | None) -> None:
    assert not has_current(asked, '"a,b"')


def test_a_bare_tag_of_an_application_s_own_is_compared_as_it_is() -> None:
    assert has_current("v1, v2", "v2")
    assert not has_current("v1", "v2")


def test_another_content_has_another_tag() -> None:
    assert weak_tag(b"one") == weak_tag(b"one") != weak_tag(b"two")
    assert has_current(weak_tag(b"one"), weak_tag(b"one"))
