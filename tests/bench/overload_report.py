"""What a run of the overload bench showed, beside what is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from tests.bench.works import Work

PROBES = ("/health/live", "/health/ready")
LEAST_GOODPUT = 0.8
MOST_REFUSAL_MS = 50.0
MOST_STALL_SECONDS = 10.0
MOST_SLOWDOWN = 1.2
MOST_LATE_MS = 10.0  # a generator that is later than this measures itself


@dataclass(frozen=True, slots=True)
class Flood:
    """One turn of too much load. told: the generator's report."""

    work: Work
    peak: float
    told: dict[str, Any]
    foreign_percent: float
    cpu_percent: float

    @property
    def goodput(self) -> float:
        statuses = self.told["flows"]["work"]["statuses"]
        return sum(figures["per_second"] for status, figures in statuses.items() if status.startswith("2"))

    @property
    def ratio(self) -> float:
        return self.goodput / self.peak

    @property
    def offered(self) -> float:
        rate: float = self.told["flows"]["work"]["sent_per_second"]
        return rate

    @property
    def refused_p99_ms(self) -> float:
        figures = self.told["flows"]["work"]["statuses"].get("503")
        return figures["p99_ms"] if figures else 0.0

    @property
    def strange(self) -> int:
        """Answers that are neither good nor a refusal, and requests that got none."""
        flow = self.told["flows"]["work"]
        other = sum(
            figures["answers"]
            for status, figures in flow["statuses"].items()
            if status != "503" and not status.startswith("2")
        )
        missing: int = flow["unanswered"] + self.told["unsent"]
        return other + missing

    @property
    def probe_p99_ms(self) -> float:
        found = [self.told["flows"][name]["statuses"].get("200") for name in PROBES]
        return max(figures["p99_ms"] if figures else float("inf") for figures in found)

    @property
    def bad_probes(self) -> int:
        """Probes that were not answered by 200."""
        return sum(_bad(self.told["flows"][name]) for name in PROBES)


@dataclass(frozen=True, slots=True)
class Stall:
    """One round without and with stalled sockets. ends: the report of `tests.bench.stalled`.

    The figures are those of requests that no other program of the machine fell into (`bystanders.py`), but for `all_p99s_ms`.
    """

    per_second: float
    without: dict[str, Any]
    beside: dict[str, Any]
    ends: dict[str, Any]
    foreign_percent: float

    @property
    def p99s_ms(self) -> tuple[float, float]:
        """Without and beside them."""
        return self.without["undisturbed"]["p99_ms"], self.beside["undisturbed"]["p99_ms"]

    @property
    def p95s_ms(self) -> tuple[float, float]:
        """Without and beside them."""
        return self.without["undisturbed"]["p95_ms"], self.beside["undisturbed"]["p95_ms"]

    @property
    def all_p99s_ms(self) -> tuple[float, float]:
        """Without and beside them, other programs or not."""
        return _p99_ms(self.without), _p99_ms(self.beside)

    @property
    def undisturbed_share(self) -> float:
        """The lesser of both turns'."""
        return float(min(self.without["undisturbed"]["share"], self.beside["undisturbed"]["share"]))

    @property
    def ratio(self) -> float:
        without, beside = self.p99s_ms
        return beside / without

    @property
    def most_seconds(self) -> float:
        """Until the last of them was ended."""
        if self.ends["never_ended"]:
            return float("inf")
        return float(max(self.ends["most_seconds"].values()))

    @property
    def bad(self) -> tuple[int, int]:
        """Healthy requests that were not answered by 200, without and beside them."""
        return _bad(self.without["flows"]["work"]), _bad(self.beside["flows"]["work"])


def _bad(flow: dict[str, Any]) -> int:
    """The requests of a flow that were not answered by 200."""
    others = sum(figures["answers"] for status, figures in flow["statuses"].items() if status != "200")
    unanswered: int = flow["unanswered"]
    return unanswered + others


def _p99_ms(told: dict[str, Any]) -> float:
    figure: float = told["flows"]["work"]["statuses"]["200"]["p99_ms"]
    return figure


def line(turn: Flood | Stall) -> str:
    """One turn, for who watches."""
    if isinstance(turn, Flood):
        return (
            f"{turn.work.name:7} peak {turn.peak:.0f}/s, offered {turn.offered:.0f}/s, good {turn.goodput:.0f}/s "
            f"({turn.ratio:.0%}), 503 p99 {turn.refused_p99_ms:.1f} ms, probes p99 {turn.probe_p99_ms:.1f} ms and "
            f"{turn.bad_probes} bad, {turn.strange} strange, sent late by {turn.told['late_p99_ms']:.1f} ms at p99, "
            f"{turn.told['most_connections']} connections, server {turn.cpu_percent:.0f} %, others {turn.foreign_percent:.0f} %"
        )
    return (
        f"stalled: last ended after {turn.most_seconds:.2f} s, p99 {turn.p99s_ms[0]:.2f} ms without and "
        f"{turn.p99s_ms[1]:.2f} ms beside them ({turn.ratio:.2f}×), p95 {turn.p95s_ms[0]:.2f} and {turn.p95s_ms[1]:.2f} ms, "
        f"of the {turn.undisturbed_share:.0%} without another program; p99 of all {turn.all_p99s_ms[0]:.2f} and "
        f"{turn.all_p99s_ms[1]:.2f} ms, {turn.bad[0]} and {turn.bad[1]} bad, {turn.per_second:.0f}/s, others {turn.foreign_percent:.0f} %"
    )


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the table."""

    what: str
    asked: str
    measured: str
    is_reached: bool


def _lines(floods: Sequence[Flood], stalls: Sequence[Stall]) -> list[_Line]:
    lines: list[_Line] = []
    if stalls:
        most = max(turn.most_seconds for turn in stalls)
        ratio, low, high = _ratio(stalls)
        bad_without, bad_beside = (sum(turn.bad[at] for turn in stalls) for at in (0, 1))
        told_bad = f"; not answered by 200: {bad_beside} beside them, {bad_without} without"
        p99s, p95s, all_p99s = (
            _pair([figures(turn) for turn in stalls])
            for figures in (
                lambda turn: turn.p99s_ms,
                lambda turn: turn.p95s_ms,
                lambda turn: turn.all_p99s_ms,
            )
        )
        lines.append(
            _Line(
                "500 stalled sockets, the last one closed",
                "within 10 s",
                f"{most:.1f} s",
                most <= MOST_STALL_SECONDS,
            )
        )
        lines.append(
            _Line(
                f"p99 of {stalls[-1].per_second:.0f} healthy requests/s beside them",
                "under +20 %",
                f"{ratio - 1:+.0%}, half of the rounds from {low - 1:+.0%} to {high - 1:+.0%} ({p99s}); p95 {p95s}; p99 with "
                f"what other programs delayed {all_p99s}{told_bad if bad_beside or bad_without else ''}",
                # What was refused without them is the machine's doing, not theirs.
                ratio < MOST_SLOWDOWN and not bad_beside,
            )
        )
    for work in {turn.work.name: turn.work for turn in floods}.values():
        turns = [turn for turn in floods if turn.work.name == work.name]
        middle = _middle(turns)
        share, refusal = middle(lambda turn: turn.ratio), middle(lambda turn: turn.refused_p99_ms)
        bad = sum(turn.bad_probes for turn in turns)
        lines.append(
            _Line(
                f"{work.title}: good answers at 3× the peak of {middle(lambda turn: turn.peak):.0f}/s",
                "80 % of the peak",
                f"{share:.0%} ({middle(lambda turn: turn.goodput):.0f}/s of {middle(lambda turn: turn.offered):.0f} offered)",
                share >= LEAST_GOODPUT and not any(turn.strange for turn in turns),
            )
        )
        lines.append(
            _Line(
                "the excess is answered 503, p99",
                "under 50 ms",
                f"{refusal:.1f} ms",
                0 < refusal < MOST_REFUSAL_MS,
            )
        )
        lines.append(
            _Line(
                "probes, on fresh connections",
                "all 200",
                f"{'all 200' if not bad else f'{bad} were not'}, p99 {middle(lambda turn: turn.probe_p99_ms):.1f} ms",
                not bad,
            )
        )
    return lines


def _ratio(stalls: Sequence[Stall]) -> tuple[float, float, float]:
    """The median over the rounds, and the quartiles: single rounds scatter more than what is asked allows."""
    ratios = [turn.ratio for turn in stalls]
    low, _, high = quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else (ratios[0],) * 3
    return median(ratios), low, high


def _pair(figures: Sequence[tuple[float, float]]) -> str:
    without, beside = (median(values) for values in zip(*figures, strict=True))
    return f"{beside:.1f} ms beside them, {without:.1f} without"


def _middle(turns: Sequence[Flood]) -> Callable[[Callable[[Flood], float]], float]:
    return lambda figure: median(figure(turn) for turn in turns)


def table(floods: Sequence[Flood], stalls: Sequence[Stall]) -> str:
    """What is asked and what was measured, as Markdown."""
    rows = [
        f"| {one.what} | {one.asked} | {one.measured} {'✓' if one.is_reached else '✗'} |"
        for one in _lines(floods, stalls)
    ]
    return "\n".join(["| | asked | measured |", "| --- | --- | --- |", *rows])


def conditions(floods: Sequence[Flood], stalls: Sequence[Stall]) -> str:
    """How the figures came about, and how quiet the machine was."""
    foreign = max(0.0, *(turn.foreign_percent for turn in [*floods, *stalls]))
    rounds = max(
        len(stalls), *(sum(turn.work.name == one.work.name for turn in floods) for one in floods or ()), 1
    )
    said = (
        f"{rounds} rounds: medians. One process on a core of its own, the load and the stores on the other. Other programs "
        f"took at most {foreign:.0f} % of a core during a turn."
    )
    if floods:
        said += (
            f" The load left at most {max(turn.told['late_p99_ms'] for turn in floods):.1f} ms late (p99)."
        )
    if stalls:
        share = min(turn.undisturbed_share for turn in stalls)
        said += f" No other program ran during at least {share:.0%} of the healthy requests: their p95 and p99 are those."
    return said


def failures(floods: Sequence[Flood], stalls: Sequence[Stall]) -> list[str]:
    """What is not reached, and what was not measured because the load itself was late."""
    problems = [
        f"{one.what}: {one.measured}, asked: {one.asked}"
        for one in _lines(floods, stalls)
        if not one.is_reached
    ]
    late = [turn for turn in floods if turn.told["late_p99_ms"] > MOST_LATE_MS]
    problems += [
        f"{turn.work.name}: the load left {turn.told['late_p99_ms']:.0f} ms late at p99, so the figures say little"
        for turn in late
    ]
    return problems
