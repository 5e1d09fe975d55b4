"""Feature flags by OpenFeature, from one file that is read again when it changes.

In a cluster the file is a mounted ConfigMap, so a flag changes everywhere within the kubelet's sync and no pod
restarts. A file that cannot be read or understood leaves the flags as they were and is logged; a flag that
nobody defined gives the caller's default. Evaluation is a few look-ups in memory.

The file (JSON or YAML):

    flags:
      new-report:
        variants: {on: true, off: false}
        default: off
        rules:
          - if: {role: admin}                # every attribute must match; a list matches any of its values
            variant: on
          - split: {on: 10, off: 90}         # percent, by a hash of the flag and the targeting key: sticky
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
from openfeature.api import get_client, set_provider
from openfeature.client import OpenFeatureClient
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import FlagResolutionDetails, Reason
from openfeature.provider import AbstractProvider, Metadata

from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ConfigurationError

_log = structlog.get_logger("flags")
_DOMAIN = "scalable-fastapi-system"
_BUCKETS = 10_000  # a hundredth of a percent


@dataclass(frozen=True, slots=True)
class Rule:
    """Gives a variant, or one of several by share, to the callers whose attributes match."""

    conditions: Mapping[str, frozenset[Any]] = field(default_factory=dict)
    variant: str | None = None
    split: tuple[tuple[int, str], ...] = ()  # (upper bound in buckets, variant)

    def matches(self, attributes: Mapping[str, Any]) -> bool:
        try:
            return all(attributes.get(name) in allowed for name, allowed in self.conditions.items())
        except TypeError:  # a list or its like, which no condition can name
            return False

    def pick(self, flag: str, targeting_key: str) -> str | None:
        if self.variant is not None:
            return self.variant
        digest = hashlib.blake2b(f"{flag}\0{targeting_key}".encode(), digest_size=8).digest()
        bucket = int.from_bytes(digest, "big") % _BUCKETS
        return next((variant for bound, variant in self.split if bucket < bound), None)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag as the file defines it."""

    variants: Mapping[str, Any]
    default: str
    rules: tuple[Rule, ...] = ()
    is_enabled: bool = True


def parse_flags(text: str, *, is_yaml: bool) -> dict[str, Flag]:
    """The flags in a file. Raises ConfigurationError that names the flag and what is wrong with it."""
    load: Callable[[str], Any] = json.loads
    if is_yaml:
        import yaml

        load = yaml.safe_load
    try:
        document = load(text)
    except Exception as error:
        # Not only its own: PyYAML lets out KeyError, IndexError and AttributeError for `!!bool foo` and its like, and
        # what is nested too deep is a RecursionError of either.
        kind = "YAML" if is_yaml else "JSON"
        raise ConfigurationError(f"the flags file is not {kind}: {type(error).__name__}: {error}") from error
    found = document.get("flags") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        raise ConfigurationError("the flags file has no mapping `flags`")
    for name in found:
        if not isinstance(name, str):  # nobody asks by anything else, so it would never be found
            raise ConfigurationError(f"a flag is named by a text, not by {name!r}: quote it")
    return {name: _parse_flag(name, body) for name, body in found.items()}


def _parse_flag(name: str, body: Any) -> Flag:
    if not isinstance(body, dict) or not isinstance(body.get("variants"), dict) or not body["variants"]:
        raise ConfigurationError(f"flag {name}: it needs `variants`")
    # YAML 1.1 reads on and off as booleans: they mean the names
    variants = {_name(key): value for key, value in body["variants"].items()}
    default = _name(body.get("default", ""))
    unknown = set(body) - {"variants", "default", "rules", "enabled", "description"}
    if unknown:
        raise ConfigurationError(f"flag {name}: unknown members {sorted(map(_name, unknown))}")
    if default not in variants:
        raise ConfigurationError(f"flag {name}: `default` must be one of {sorted(variants)}")
    if len({type(value) for value in variants.values()}) > 1:
        raise ConfigurationError(f"flag {name}: all variants must be of one type")
    listed = body.get("rules") or []
    if not isinstance(listed, list):
        raise ConfigurationError(f"flag {name}: `rules` is a list")
    rules = tuple(_parse_rule(name, rule, variants) for rule in listed)
    is_enabled = body.get("enabled", True)
    if not isinstance(is_enabled, bool):  # "false" in quotes would be true
        raise ConfigurationError(f"flag {name}: `enabled` is true or false")
    return Flag(variants, default, rules, is_enabled)


def _parse_rule(flag: str, body: Any, variants: Mapping[str, Any]) -> Rule:
    if (
        not isinstance(body, dict)
        or ("variant" in body) == ("split" in body)
        or set(body) - {"if", "variant", "split"}
    ):
        raise ConfigurationError(f"flag {flag}: a rule has `variant` or `split`, and perhaps `if`")
    wanted, split = body.get("if") or {}, body.get("split", {})
    if not isinstance(wanted, dict) or not isinstance(split, dict):
        raise ConfigurationError(f"flag {flag}: `if` and `split` are mappings")
    try:
        conditions = {
            str(name): frozenset(values if isinstance(values, list) else [values])
            for name, values in wanted.items()
        }
    except TypeError:
        raise ConfigurationError(f"flag {flag}: `if` compares with plain values, or a list of them") from None
    for name, values in conditions.items():
        if {bool, str} <= {type(value) for value in values}:
            raise ConfigurationError(
                f"flag {flag}: `if` has a boolean among the texts of {name}: YAML takes NO, on and their like for one, quote them"
            )
    if "variant" in body:
        variant = _name(body["variant"])
        if variant not in variants:
            raise ConfigurationError(f"flag {flag}: no variant {variant!r}")
        return Rule(conditions, variant)
    bounds: list[tuple[int, str]] = []
    total = 0.0
    for variant, percent in split.items():
        is_share = isinstance(percent, int | float) and percent >= 0  # which NaN is not
        if _name(variant) not in variants or not is_share:
            raise ConfigurationError(f"flag {flag}: a split gives each variant a percentage")
        total += min(percent, 101)  # an integer may be too large for a float
        bounds.append((round(total * _BUCKETS / 100), _name(variant)))
    if total > 100.0001:
        raise ConfigurationError(f"flag {flag}: a split adds up to at most 100")
    return Rule(conditions, split=tuple(bounds))


def _name(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


class FileFlagProvider(AbstractProvider):
    """An OpenFeature provider over one file. Thread-safe; looks at the file at most every `reload_seconds`."""

    def __init__(self, path: Path | None, *, reload_seconds: float = 2.0) -> None:
        """Raises ConfigurationError where the file is there and wrong: better at the start than later."""
        super().__init__()
        self._path = path
        self._reload_seconds = reload_seconds
        self._lock = threading.Lock()
        self._flags: Mapping[str, Flag] = {}
        self._overrides: dict[str, Any] = {}
        self._seen: tuple[int, ...] | None = None
        self._next_look = 0.0
        if path is not None:
            self._load()

    def get_metadata(self) -> Metadata:
        return Metadata(name="file")

    @contextmanager
    def override(self, **values: Any) -> Iterator[None]:
        """Gives flags (with `_` for `-`) these values for the time of a test."""
        before = dict(self._overrides)
        self._overrides.update({name.replace("_", "-"): value for name, value in values.items()})
        try:
            yield
        finally:
            self._overrides = before

    def resolve_boolean_details(
        self, flag_key: str, default_value: bool, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[bool]:
        return self._resolve(flag_key, default_value, evaluation_context, bool)

    def resolve_string_details(
        self, flag_key: str, default_value: str, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[str]:
        return self._resolve(flag_key, default_value, evaluation_context, str)

    def resolve_integer_details(
        self, flag_key: str, default_value: int, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[int]:
        return self._resolve(flag_key, default_value, evaluation_context, int)

    def resolve_float_details(
        self, flag_key: str, default_value: float, evaluation_context: EvaluationContext | None = None
    ) -> FlagResolutionDetails[float]:
        return self._resolve(flag_key, default_value, evaluation_context, float)

    def resolve_object_details(
        self,
        flag_key: str,
        default_value: Sequence[Any] | Mapping[str, Any],
        evaluation_context: EvaluationContext | None = None,
    ) -> FlagResolutionDetails[Any]:
        return self._resolve(flag_key, default_value, evaluation_context, (list, dict))

    def _resolve(
        self, name: str, default: Any, context: EvaluationContext | None, kind: type | tuple[type, ...]
    ) -> FlagResolutionDetails[Any]:
        if name in self._overrides:
            return FlagResolutionDetails(self._overrides[name], reason=Reason.STATIC, variant="override")
        flag = self._current().get(name)
        if flag is None:
            return FlagResolutionDetails(
                default,
                error_code=ErrorCode.FLAG_NOT_FOUND,
                error_message=f"no flag {name}",
                reason=Reason.ERROR,
            )
        variant, reason = self._choose(name, flag, context)
        value = flag.variants[variant]
        if kind is float and type(value) is int:
            with suppress(OverflowError):  # then it is no float
                value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            message = f"flag {name} is of another type"
            return FlagResolutionDetails(
                default, error_code=ErrorCode.TYPE_MISMATCH, error_message=message, reason=Reason.ERROR
            )
        return FlagResolutionDetails(value, reason=reason, variant=variant)

    @staticmethod
    def _choose(name: str, flag: Flag, context: EvaluationContext | None) -> tuple[str, Reason]:
        if not flag.is_enabled:
            return flag.default, Reason.DISABLED
        if flag.rules:
            key = (context.targeting_key if context else None) or ""
            attributes: Mapping[str, Any] = context.attributes if context else {}
            for rule in flag.rules:
                # Without a key everybody would fall into one bucket: a split is then passed over.
                if rule.matches(attributes) and (rule.variant is not None or key):
                    variant = rule.pick(name, key)
                    if variant is not None:
                        return variant, Reason.TARGETING_MATCH if rule.variant is not None else Reason.SPLIT
        return flag.default, Reason.DEFAULT if flag.rules else Reason.STATIC

    def _current(self) -> Mapping[str, Flag]:
        now = time.monotonic()
        if self._path is not None and now >= self._next_look and self._lock.acquire(blocking=False):
            try:
                self._next_look = now + self._reload_seconds
                self._load_if_changed()
            finally:
                self._lock.release()
        return self._flags

    def _load_if_changed(self) -> None:
        try:
            if self._signature() != self._seen:
                self._load()
                _log.info("flags read again", count=len(self._flags))
        except (ConfigurationError, OSError) as error:
            self._seen = None
            _log.error("flags left as they were", reason=str(error))

    def _load(self) -> None:
        assert self._path is not None  # noqa: S101 - callers look first
        try:
            signature = self._signature()
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"FLAGS__FILE: {self._path} cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"FLAGS__FILE: {self._path} is not UTF-8") from error
        self._flags = parse_flags(text, is_yaml=self._path.suffix in {".yaml", ".yml"})
        self._seen = signature

    def _signature(self) -> tuple[int, ...]:
        assert self._path is not None  # noqa: S101 - callers look first
        found = self._path.stat()  # through the symlink that a ConfigMap's update swaps
        # the last two for content written in place by what keeps the time of the change, as `cp -p` does
        return found.st_mtime_ns, found.st_ino, found.st_size, found.st_ctime_ns


class FeatureFlags:
    """The flags of one process: `flags.is_on("name", user)`, or any call of OpenFeature's client through `client`."""

    def __init__(self, settings: Settings) -> None:
        self.provider = FileFlagProvider(settings.flags.file, reload_seconds=settings.flags.reload_seconds)
        set_provider(self.provider, _DOMAIN)
        self.client: OpenFeatureClient = get_client(_DOMAIN)

    def is_on(self, name: str, *, key: str = "", default: bool = False, **attributes: Any) -> bool:
        """Whether a boolean flag is on for this targeting key and these attributes."""
        context = (
            EvaluationContext(targeting_key=key or None, attributes=attributes) if key or attributes else None
        )
        return self.provider.resolve_boolean_details(name, default, context).value

    def variant(self, name: str, default: str, *, key: str = "", **attributes: Any) -> str:
        """The text of a flag with several variants."""
        context = (
            EvaluationContext(targeting_key=key or None, attributes=attributes) if key or attributes else None
        )
        return self.provider.resolve_string_details(name, default, context).value
