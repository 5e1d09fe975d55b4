"""Feature flags: variants, targeting, sticky percentages, reloading, overrides, and no surprise when the file is bad."""

import json
import os
import time

import pytest
from scalable_fastapi_system.infra.flags import FeatureFlags, FileFlagProvider, parse_flags
from scalable_fastapi_system.infra.settings import Settings
from scalable_fastapi_system.kit.errors import ConfigurationError
from structlog.testing import capture_logs

FLAGS = """
flags:
  report:
    variants: {on: true, off: false}
    default: off
    rules:
      - if: {role: [admin, tester]}
        variant: on
      - split: {on: 25, off: 75}
  colour:
    variants: {warm: red, cold: blue}
    default: cold
    rules:
      - if: {country: FI, plan: paid}
        variant: warm
  retired:
    variants: {on: true, off: false}
    default: off
    enabled: false
    rules: [{variant: on}]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "flags.yaml"
    path.write_text(FLAGS)
    return path


@pytest.fixture
def flags(file):
    return FeatureFlags(Settings(_env_file=None, flags={"file": file, "reload_seconds": 0.001}))


def test_a_rule_gives_its_variant_to_who_matches_every_condition(flags):
    assert flags.is_on("report", key="u", role="admin")
    assert flags.variant("colour", "none", country="FI", plan="paid") == "red"
    assert flags.variant("colour", "none", country="FI", plan="free") == "blue"


def test_a_percentage_is_sticky_per_key_and_near_its_share(flags):
    chosen = {key: flags.is_on("report", key=key) for key in (f"user-{n}" for n in range(4000))}
    assert chosen == {key: flags.is_on("report", key=key) for key in chosen}
    assert 0.22 < sum(chosen.values()) / len(chosen) < 0.28


def test_without_a_key_a_percentage_is_passed_over(flags):
    assert flags.is_on("report") is False


def test_a_disabled_flag_gives_its_default(flags):
    assert flags.is_on("retired", key="u") is False


def test_an_unknown_flag_gives_the_caller_s_default(flags):
    assert flags.is_on("nobody-made-this", default=True) is True


def test_a_flag_of_another_type_gives_the_caller_s_default(flags):
    assert flags.is_on("colour", default=True) is True


def test_the_openfeature_client_gives_the_same_answers(flags):
    assert flags.client.get_string_value("colour", "none") == "blue"
    assert flags.client.get_string_details("colour", "none").variant == "cold"


def test_a_changed_file_is_read_again(flags, file):
    assert flags.variant("colour", "none") == "blue"
    file.write_text(FLAGS.replace("default: cold", "default: warm"))
    os.utime(file, ns=(1, 1))
    time.sleep(0.01)
    assert flags.variant("colour", "none") == "red"


@pytest.mark.parametrize("default", ["warm ", "warm"])  # of another length, and of the same
def test_a_change_in_place_that_keeps_the_time_is_seen(flags, file, default):
    assert flags.variant("colour", "none") == "blue"
    times = file.stat()
    time.sleep(0.05)  # as long as the file system's clock may take from one reading to the next
    file.write_text(FLAGS.replace("default: cold", f"default: {default}"))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert flags.variant("colour", "none") == "red"


def test_a_broken_change_leaves_the_flags_as_they_were(flags, file):
    variants = "variants: {warm: red, cold: blue}, default: warm"
    for broken in (
        b"flags: [",
        b"flags: {colour: {}}",
        b"",
        b"\xff",
        f"flags: {{colour: {{{variants}, rules: 5}}}}".encode(),
        f"flags: {{colour: {{{variants}, rules: [{{split: 5}}]}}}}".encode(),
        f"flags: {{colour: {{{variants}, rules: [{{if: [x], variant: warm}}]}}}}".encode(),
    ):
        file.write_bytes(broken)
        time.sleep(0.01)
        assert flags.variant("colour", "none") == "blue"


BROKEN_FOR_THE_LOADER = {
    "deep.yaml": "flags: " + "[" * 2000,
    "deep.json": "[" * 100_000,
    "int.yaml": "flags: !!int ''",
    "bool.yaml": "flags: !!bool foo",
    "timestamp.yaml": "flags: !!timestamp foo",
    "date.yaml": "flags: 2024-13-45",
    "percentage.json": json.dumps(
        {"flags": {"f": {"variants": {"a": 1}, "default": "a", "rules": [{"split": {"a": 10**400}}]}}}
    ),
}


@pytest.mark.parametrize("name", BROKEN_FOR_THE_LOADER)
def test_what_a_loader_stumbles_over_leaves_the_flags_as_they_were(tmp_path, name):
    file = tmp_path / name
    good = {"flags": {"colour": {"variants": {"cold": "blue"}, "default": "cold"}}}
    file.write_text(json.dumps(good))  # which is YAML as well
    provider = FileFlagProvider(file, reload_seconds=0)
    file.write_text(BROKEN_FOR_THE_LOADER[name])
    os.utime(file, ns=(1, 1))
    with capture_logs() as logs:
        assert provider.resolve_string_details("colour", "none").value == "blue"
    assert [line["event"] for line in logs] == ["flags left as they were"]
    expected = "at most 100" if "percentage" in name else f"is not {file.suffix[1:].upper()}: "
    assert expected in logs[0]["reason"]


def test_an_integer_that_no_float_can_hold_gives_the_caller_s_default(tmp_path):
    file = tmp_path / "flags.json"
    file.write_text(json.dumps({"flags": {"limit": {"variants": {"a": 10**400}, "default": "a"}}}))
    assert FileFlagProvider(file).resolve_float_details("limit", 1.5).value == 1.5


def test_rules_that_are_all_commented_out_are_none(flags, file):
    file.write_text(
        FLAGS + "  empty:\n    variants: {on: true}\n    default: on\n    rules:\n      # - variant: on\n"
    )
    time.sleep(0.01)
    assert flags.is_on("empty") is True


def test_an_attribute_that_is_a_list_matches_nothing(flags):
    assert flags.is_on("report", key="", role=["admin"]) is False


def test_a_configmap_s_swap_of_symlinks_is_seen(tmp_path):
    for name, default in (("one", "cold"), ("two", "warm")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.yaml").write_text(FLAGS.replace("default: cold", f"default: {default}"))
    (tmp_path / "..data").symlink_to("one")
    (tmp_path / "flags.yaml").symlink_to("..data/flags.yaml")
    provider = FileFlagProvider(tmp_path / "flags.yaml", reload_seconds=0.001)
    assert provider.resolve_string_details("colour", "x").value == "blue"
    (tmp_path / "..data_new").symlink_to("two")
    (tmp_path / "..data_new").rename(tmp_path / "..data")
    time.sleep(0.01)
    assert provider.resolve_string_details("colour", "x").value == "red"


def test_a_test_may_override_a_flag(flags):
    with flags.provider.override(report=True, colour="green"):
        assert flags.is_on("report") is True
        assert flags.variant("colour", "none") == "green"
    assert flags.is_on("report") is False


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ({}, "needs `variants`"),
        ({"variants": {"a": 1}, "default": "b"}, "`default` must be one of"),
        ({"variants": {"a": 1, "b": "x"}, "default": "a"}, "of one type"),
        ({"variants": {"a": 1}, "default": "a", "rules": [{"variant": "z"}]}, "no variant 'z'"),
        ({"variants": {"a": 1}, "default": "a", "rules": [{"split": {"a": 120}}]}, "at most 100"),
        ({"variants": {"a": 1}, "default": "a", "rules": [{"split": {"a": float("nan")}}]}, "a percentage"),
        ({"variants": {"a": 1}, "default": "a", "rules": [{"split": 5}]}, "are mappings"),
        ({"variants": {"a": 1}, "default": "a", "rules": [{"if": ["x"], "variant": "a"}]}, "are mappings"),
        (
            {"variants": {"a": 1}, "default": "a", "rules": [{"if": {"x": {}}, "variant": "a"}]},
            "plain values",
        ),
        ({"variants": {"a": 1}, "default": "a", "rules": 5}, "is a list"),
        ({"variants": {"a": 1}, "default": "a", "wrong": 1}, "unknown members"),
    ],
)
def test_a_wrong_definition_is_named(flag, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        parse_flags(json.dumps({"flags": {"f": flag}}), is_yaml=False)


def test_wrong_members_that_yaml_takes_for_booleans_are_named():
    text = "flags: {f: {variants: {a: 1}, default: a, on: 1, foo: 2, 3: 4}}"
    with pytest.raises(ConfigurationError, match=r"unknown members \['3', 'foo', 'on'\]"):
        parse_flags(text, is_yaml=True)


@pytest.mark.parametrize("enabled", ['"false"', '"true"', "0", "1", "null", "[]"])
def test_what_is_neither_true_nor_false_does_not_say_whether_a_flag_is_enabled(enabled):
    text = f"flags: {{f: {{variants: {{a: true}}, default: a, enabled: {enabled}}}}}"
    with pytest.raises(ConfigurationError, match="flag f: `enabled` is true or false"):
        parse_flags(text, is_yaml=True)


@pytest.mark.parametrize(("name", "read"), [("2024", "2024"), ("on", "True"), ("~", "None"), ("1.5", "1.5")])
def test_a_name_that_yaml_takes_for_something_else_is_to_be_quoted(name, read):
    text = "flags: {%s: {variants: {a: 1}, default: a}}"
    with pytest.raises(ConfigurationError, match=f"a flag is named by a text, not by {read}: quote it"):
        parse_flags(text % name, is_yaml=True)
    assert list(parse_flags(text % f'"{name}"', is_yaml=True)) == [name]


def test_a_text_that_yaml_takes_for_a_boolean_is_to_be_quoted():
    text = "flags: {f: {variants: {a: 1}, default: a, rules: [{if: {country: [%s, SE]}, variant: a}]}}"
    with pytest.raises(ConfigurationError, match="`if` has a boolean among the texts of country"):
        parse_flags(text % "NO", is_yaml=True)
    rule = parse_flags(text % '"NO"', is_yaml=True)["f"].rules[0]
    assert rule.matches({"country": "NO"})


def test_a_condition_may_be_a_boolean(flags, file):
    file.write_text(FLAGS.replace("plan: paid", "plan: [off, no]"))
    time.sleep(0.01)
    assert flags.variant("colour", "none", country="FI", plan=False) == "red"


def test_a_missing_file_is_an_error_at_the_start(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        FileFlagProvider(tmp_path / "none.json")
