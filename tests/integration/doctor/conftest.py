"""Asking the doctor as an operator does: the command line, an environment, its JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from domains.registry import PRODUCT
from scalable_fastapi_system.cli import main

KEY = "0123456789abcdef0123456789abcdef"


@dataclass(frozen=True)
class Answer:
    """What the doctor said, and its exit code."""

    code: int
    findings: list[dict[str, str]]
    text: str

    def of(self, area: str, level: str) -> str:
        """The sentences of an area at one level, with their next steps."""
        found = [item for item in self.findings if (item["area"], item["level"]) == (area, level)]
        return "\n".join(f"{item['text']} -> {item['next_step']}" for item in found)

    @property
    def problems(self) -> list[str]:
        return [item["text"] for item in self.findings if item["level"] == "problem"]


@pytest.fixture
def ask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Runs the doctor with these settings by their names in the environment, and nothing else."""
    monkeypatch.chdir(tmp_path)  # no .env of this folder

    def ask(*arguments: str, **environment: str) -> Answer:
        for name, value in {"SECURITY__SECRET_KEY": KEY, **environment}.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        code = main(["doctor", "--json", *arguments], product=PRODUCT)
        text = capsys.readouterr().out
        return Answer(code, json.loads(text)["findings"], text)

    return ask
