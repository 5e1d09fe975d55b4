"""What the doctor says: one sentence for each thing looked at, and what to do where it is not well."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters. Only a `problem` fails the command (with `--strict` a `warning` too)."""

    OK = "ok"
    NOTE = "note"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `next_step` is empty where nothing needs doing."""

    area: str
    level: Level
    text: str
    next_step: str = ""


@dataclass(slots=True)
class Report:
    """Findings in the order they were made."""

    findings: list[Finding] = field(default_factory=list)

    def ok(self, area: str, text: str) -> None:
        """It is as it should be."""
        self.findings.append(Finding(area, Level.OK, text))

    def note(self, area: str, text: str, next_step: str = "") -> None:
        """Good to know; right for some installations."""
        self.findings.append(Finding(area, Level.NOTE, text, next_step))

    def warning(self, area: str, text: str, next_step: str) -> None:
        """It works, and will not for ever or not under load."""
        self.findings.append(Finding(area, Level.WARNING, text, next_step))

    def problem(self, area: str, text: str, next_step: str) -> None:
        """It does not work, or is not safe."""
        self.findings.append(Finding(area, Level.PROBLEM, text, next_step))

    def count(self, level: Level) -> int:
        """How many findings have this level."""
        return sum(finding.level is level for finding in self.findings)

    def exit_code(self, *, strict: bool) -> int:
        """0 where nothing is wrong, else 1."""
        return int(bool(self.count(Level.PROBLEM) or (strict and self.count(Level.WARNING))))

    def as_text(self) -> str:
        """For people: a line each, the next step below it, the count last."""
        lines: list[str] = []
        for finding in self.findings:
            lines.append(f"{finding.level:<8} {finding.area:<9} {finding.text}")
            if finding.next_step:
                lines.append(f"{'':<8} {'':<9} -> {finding.next_step}")
        counts = Counter(finding.level for finding in self.findings)
        lines.append(
            f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings, {counts[Level.NOTE]} notes, "
            f"{counts[Level.OK]} as they should be"
        )
        return "\n".join(lines)

    def as_json(self) -> str:
        """For programs: `{"healthy": bool, "findings": [{"area", "level", "text", "next_step"}, …]}`."""
        return json.dumps(
            {
                "healthy": not self.count(Level.PROBLEM),
                "findings": [asdict(finding) for finding in self.findings],
            },
            indent=2,
            ensure_ascii=False,
        )
