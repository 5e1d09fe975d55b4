"""docs/settings.md is what the Settings models say, and says it of every setting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel, Field
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.infra.settings.loading import effective_values

from hack.reference import settings as reference
from hack.reference.settings import PAGE, check, rendered, sections, settings_of
from hack.tools.common import ToolError


def test_the_page_is_what_the_models_say() -> None:
    check(PAGE, rendered())


def test_a_stale_page_is_refused_with_what_to_do(tmp_path: Path) -> None:
    page = tmp_path / "settings.md"
    for content in (None, rendered().replace("`10`", "`11`", 1)):
        if content is not None:
            page.write_text(content)
        with pytest.raises(ToolError, match="not what the Settings models say") as refused:
            check(page, rendered())
        assert "make settings" in refused.value.hint


def test_every_setting_that_config_prints_is_on_the_page() -> None:
    listed = set(re.findall(r"^\| `([A-Z_]+)` \|", rendered(), flags=re.MULTILINE))
    assert listed == {value.variable for value in effective_values(Settings(_env_file=None))}


def test_a_setting_without_a_description_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Section(BaseModel):
        colour: str = Field("red")

    monkeypatch.setattr(
        reference, "sections", lambda: [("section", "", list(settings_of(Section, ("section",))))]
    )
    with pytest.raises(ToolError, match="SECTION__COLOUR has no description"):
        rendered()


def test_secrets_are_marked_and_nothing_else_is() -> None:
    found = {one.variable for _, _, settings in sections() for one in settings if one.is_secret}
    assert found == {
        "SECURITY__SECRET_KEY",
        "SECURITY__PREVIOUS_SECRET_KEYS",
        "OIDC__PROVIDERS__<NAME>__CLIENT_SECRET",
        "ERROR_TRACKING__DSN",
        "STORAGE__OPTIONS",
    }
