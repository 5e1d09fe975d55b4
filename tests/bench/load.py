"""The load: wrk on a core of its own, always against 127.0.0.1 and for a bounded time."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.dev.errors import DevError
from tests.bench.machine import OTHER_CORE

MAX_SECONDS = 15
_IN_TURN = """
turn, requests = 0, {}
init = function()
  for number, path in ipairs(paths) do requests[number] = wrk.format(nil, path) end
end
request = function()
  turn = turn % #requests + 1
  return requests[turn]
end
"""
_LUA = """
done = function(summary, latency, requests)
  io.write(string.format('\\nJSON{"requests":%d,"microseconds":%d,"p50":%.1f,"p99":%.1f,"refused":%d,"broken":%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), summary.errors.status,
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout))
end
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What wrk saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    bad: int
    refused: int = 0  # of the bad ones, those with an answer: 4xx and 5xx

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Call:
    """One request, sent again and again. `url` is on this machine; `paths`: in turn, in place of the URL's own."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] | None = None
    body: str | None = None
    paths: Sequence[str] = ()


def run(call: Call, *, seconds: int, connections: int, folder: Path) -> Outcome:
    """Sends the request for so long over so many connections. Raises DevError where wrk fails."""
    if not call.url.startswith("http://127.0.0.1:") or not 0 < seconds <= MAX_SECONDS:
        raise ValueError("the load is bounded and stays on this machine")
    script = folder / "wrk.lua"
    script.write_text(_script(call), encoding="utf-8")
    headers = [word for name, value in (call.headers or {}).items() for word in ("-H", f"{name}: {value}")]
    command = ["taskset", "-c", str(OTHER_CORE), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["-s", str(script), *headers, call.url]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    if result.returncode != 0 or "JSON" not in result.stdout:
        raise DevError(f"wrk failed: {(result.stderr or result.stdout).strip()[-500:]}")
    figures = json.loads(result.stdout.split("JSON", 1)[1].splitlines()[0])
    return Outcome(
        requests=figures["requests"],
        seconds=figures["microseconds"] / 1e6,
        p50_ms=figures["p50"] / 1e3,
        p99_ms=figures["p99"] / 1e3,
        bad=figures["refused"] + figures["broken"],
        refused=figures["refused"],
    )


def _script(call: Call) -> str:
    lines = [f"wrk.method = {json.dumps(call.method)}"]
    if call.body is not None:
        lines.append(f"wrk.body = {json.dumps(call.body)}")
        lines.append('wrk.headers["Content-Type"] = "application/json"')
    if call.paths:
        lines.append(f"paths = {{{', '.join(json.dumps(path) for path in call.paths)}}}")
        lines.append(_IN_TURN)
    return "\n".join(lines) + _LUA
