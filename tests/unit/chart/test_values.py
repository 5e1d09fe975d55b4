"""The values: each one does something, each one used is declared, and nothing else is accepted."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor

import jsonschema
import pytest
import yaml

from tests.unit.chart.helm import CHART, SHAPES, RenderError, render, shape_file

VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
DIGEST = "sha256:" + "0123456789abcdef" * 4
FIXED = {
    "secrets.secretKey": "k" * 40,
    "postgres.auth.password": "postgres-word",
    "redis.auth.password": "redis-word",
}

# Where a value only matters beside another one: the shape to look at, and what else to set there.
ONLY_BESIDE = {
    "serviceAccount.name": ("default", {}),
    "secrets.secretKey": ("default", {}),
    "postgres.external.url": ("external", {}),
    "postgres.external.maxConnections": ("external", {}),
    "redis.external.url": ("external", {}),
    "postgres.external.existingSecret.name": ("gitops", {}),
    "postgres.external.existingSecret.key": ("gitops", {}),
    "redis.external.existingSecret.name": ("gitops", {}),
    "redis.external.existingSecret.key": ("gitops", {}),
    "postgres.auth.existingSecret.key": ("default", {"postgres.auth.existingSecret.name": "mine"}),
    "redis.auth.existingSecret.key": ("default", {"redis.auth.existingSecret.name": "mine"}),
    "api.replicas": ("ephemeral", {}),
    "worker.replicas": ("ephemeral", {}),
    "worker.autoscaling.targetCPUUtilizationPercentage": ("default", {}),
    "image.tag": ("default", {}),
    "podSecurity.runAsUser": ("default", {}),
}


def leaves(values, node=SCHEMA, path=()):
    """What a user sets as one: down to where the schema lists no more keys."""
    for key, value in values.items():
        child = node["properties"][key]
        if "properties" in resolved(child):
            yield from leaves(value, resolved(child), (*path, key))
        else:
            yield ".".join((*path, key)), value


def schema_at(path):
    node = SCHEMA
    for key in path.split("."):
        node = resolved(node)["properties"][key]
    return resolved(node)


def resolved(node):
    for part in node.get("allOf", [node]):
        if "$ref" in part:
            return SCHEMA["definitions"][part["$ref"].rpartition("/")[2]]
    return node


def another(path, value, base):
    """A value that the schema accepts and that is neither the default nor what the shape has."""
    schema = schema_at(path)
    for key in path.split("."):
        base = base.get(key, {}) if isinstance(base, dict) else {}
    if "enum" in schema:
        return next(choice for choice in schema["enum"] if choice not in (value, base))
    if isinstance(value, bool):
        return not (base if isinstance(base, bool) else value)
    if isinstance(value, int | float):
        near = (value + 1, value + 2, value - 1, value - 0.5)
        return next(number for number in near if number != base and fits(number, schema))
    if value is None:
        return 7
    if isinstance(value, list):
        items = schema.get("items", {})
        if "enum" in items:
            return [next(choice for choice in items["enum"] if choice not in base)]
        return (
            ["another"] if items.get("type") == "string" else [{"name": "another", "mountPath": "/another"}]
        )
    if isinstance(value, dict):
        if path == "extraWorkers":
            return {"another": {"queues": ["one"]}}
        return {
            "ANOTHER__ONE"
            if schema.get("propertyNames", {}).get("pattern", "").startswith("^[A-Z]")
            else "another": "one"
        }
    candidates = (
        "another",
        DIGEST,
        "77",
        "77Mi",
        "77s",
        "/another",
        "s3://another",
        "postgresql://a:b@c/d",
        "redis://a",
        "https://another",
        "@daily",
        "a" * 40,
    )
    return next(text for text in candidates if text != value and re.search(schema.get("pattern", ""), text))


def fits(value, schema):
    return jsonschema.Draft7Validator({**schema, "definitions": SCHEMA["definitions"]}).is_valid(value)


def does_something(path, value):
    shape, beside = ONLY_BESIDE.get(path, ("everything", {}))
    before = {**FIXED, **beside}
    base = yaml.safe_load(shape_file(shape).read_text())
    try:
        return render(shape, {**before, path: another(path, value, base)}).text != render(shape, before).text
    except RenderError as error:
        if "The values do not work together" in str(error):
            return True  # it is read, and this one does not fit
        raise


@pytest.mark.slow
@pytest.mark.parametrize("section", sorted(VALUES))
def test_every_value_does_something(section):
    found = [(path, value) for path, value in leaves({section: VALUES[section]})]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda leaf: does_something(*leaf), found))
    unused = [path for (path, _), used in zip(found, results, strict=True) if not used]
    assert not unused


def test_every_value_that_a_template_uses_is_declared():
    used = set()
    for file in [
        *CHART.glob("templates/**/*.yaml"),
        *CHART.glob("templates/**/*.tpl"),
        *CHART.glob("templates/*.txt"),
    ]:
        used |= set(re.findall(r"\.Values\.([A-Za-z][\w.]*\w)", file.read_text()))
    undeclared = set()
    for path in used:
        node = VALUES
        for key in path.split("."):
            if not isinstance(node, dict) or key not in node:
                if node != {}:  # a map that users fill
                    undeclared.add(path)
                break
            node = node[key]
    assert not undeclared


def test_the_defaults_and_every_shape_fit_the_schema():
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft7Validator(SCHEMA)
    validator.validate(VALUES)
    for shape in SHAPES:
        validator.validate(yaml.safe_load(shape_file(shape).read_text()))
    validator.validate(yaml.safe_load((CHART / "values-ephemeral.yaml").read_text()))


def sections(node, path=()):
    """Every map of the schema that lists its keys: (path, schema)."""
    node = resolved(node)
    if "properties" in node:
        yield path, node
        for key, child in node["properties"].items():
            yield from sections(child, (*path, key))


def test_every_section_refuses_what_it_does_not_know():
    for path, node in sections(SCHEMA):
        assert node["additionalProperties"] is False, path


def test_every_value_is_described():
    for path, node in sections(SCHEMA):
        for key, child in node["properties"].items():
            described = child if "description" in child else resolved(child)
            assert described.get("description"), (*path, key)


def test_the_schema_declares_exactly_the_values():
    declared = {".".join((*path, key)) for path, node in sections(SCHEMA) for key in node["properties"]}
    for path, _ in leaves(VALUES):
        assert path in declared or any(path.startswith(f"{known}.") for known in declared), path
    for path in declared - {"global"}:
        node = VALUES
        for key in path.split("."):
            if isinstance(node, dict) and key in node:
                node = node[key]
            else:
                parent = path.rpartition(".")[0]
                assert parent.endswith(("startup", "liveness", "readiness", "resources")), path
                break


@pytest.mark.parametrize(
    "path",
    [
        "nonsense",
        "api.nonsense",
        "api.probes.liveness.path",
        "postgres.persistence.nonsense",
        "redis.external.host",
    ],
)
def test_an_unknown_key_is_refused_by_name(path):
    with pytest.raises(RenderError, match=path.rpartition(".")[2]):
        render("default", {path: "x"})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("api.replicas", -1),
        ("api.replicas", "two"),
        ("worker.autoscaling.type", "magic"),
        ("postgres.mode", "none"),
        ("storage.url", "/folder"),
        ("config", {"lower__case": "x"}),
        ("config", {"LOGGING__LEVEL": ["x"]}),
        ("image.pullPolicy", "Sometimes"),
        ("podSecurity.runAsUser", 0),
        ("worker.queues", []),
        ("postgres.auth.username", "app; drop"),
        ("api.tmpSizeLimit", "much"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(path, value):
    with pytest.raises(RenderError, match="specification"):
        render("default", {path: value})


def test_a_parent_chart_may_pass_its_globals():
    assert render("default", {"global": {"registry": "x"}}).objects
