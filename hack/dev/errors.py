"""The one error of the developer tools: it says what is wrong and what to do about it."""

from __future__ import annotations


class DevError(Exception):
    """What a person at a terminal can act on: `advice` is the next thing to do, `log` the evidence."""

    def __init__(self, problem: str, *, advice: str = "", log: list[str] | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.advice = advice
        self.log = log or []

    def describe(self) -> str:
        """The message for a terminal: the problem, the log lines that show it, the advice."""
        lines = [f"error: {self.problem}"]
        lines += [f"  | {line}" for line in self.log]
        if self.advice:
            lines.append(self.advice)
        return "\n".join(lines)
