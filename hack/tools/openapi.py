"""From OpenAPI to JSON schemas that kubeconform can use: pure functions, no files and no network.

The result is strict: a field that the API does not know is an error, so a typing mistake in a manifest is found. A
field that the API does not require may also be null, since an empty value in a template renders as null.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

REFERENCE_PREFIX = "#/definitions/"

# OpenAPI calls these strings, while the API also takes numbers.
STRING_OR_NUMBER = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
}

# Words of OpenAPI that JSON schema does not have, and texts that only make the files larger.
DROPPED = ("description", "format", "default", "example", "nullable", "externalDocs")

# Schemas in these places state conditions on a value that another schema describes, so they close nothing.
CONDITIONS = ("allOf", "anyOf", "oneOf")


def convert(schema: Schema, *, closed: bool = True) -> Schema:
    """A JSON schema for an OpenAPI one; `closed` refuses fields that it does not name."""
    result = {
        key: value
        for key, value in schema.items()
        if key not in DROPPED and not key.startswith("x-kubernetes-")
    }
    if schema.get("x-kubernetes-int-or-string"):
        result.setdefault("type", ["integer", "string"])
    required = set(schema.get("required", []))
    if "properties" in schema:
        result["properties"] = {
            name: convert(value, closed=closed)
            if name in required
            else or_null(convert(value, closed=closed))
            for name, value in schema["properties"].items()
        }
        open_ended = "additionalProperties" in schema or schema.get("x-kubernetes-preserve-unknown-fields")
        if closed and not open_ended:
            result["additionalProperties"] = False
    if isinstance(schema.get("items"), dict):
        result["items"] = convert(schema["items"], closed=closed)
    if isinstance(schema.get("additionalProperties"), dict):
        result["additionalProperties"] = convert(schema["additionalProperties"], closed=closed)
    for word in CONDITIONS:
        if word in schema:
            result[word] = [condition(part) for part in schema[word]]
    if "not" in schema:
        result["not"] = condition(schema["not"])
    return or_null(result) if schema.get("nullable") else result


def condition(schema: Schema) -> Schema:
    """A schema that only tests a value: its fields may not be made nullable, which would change the test."""
    return {key: value for key, value in schema.items() if key not in DROPPED}


def or_null(schema: Schema) -> Schema:
    """The same schema, and null."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "type" not in schema:
        return schema
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if "null" in kinds:
        return schema
    if any(word in schema for word in (*CONDITIONS, "not")):
        return {"anyOf": [schema, {"type": "null"}]}
    result = {**schema, "type": [*kinds, "null"]}
    if "enum" in schema:
        result["enum"] = [*schema["enum"], None]
    return result


def references(schema: Any) -> Iterator[str]:
    """The names of all definitions that a schema refers to."""
    if isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(REFERENCE_PREFIX)
        for value in schema.values():
            yield from references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from references(value)


def reachable(name: str, definitions: dict[str, Schema]) -> list[str]:
    """The definitions that one definition needs, directly or not; itself only when something refers back to it."""
    found: set[str] = set()
    waiting = list(references(definitions[name]))
    while waiting:
        following = waiting.pop()
        if following not in found:
            found.add(following)
            waiting.extend(references(definitions[following]))
    return sorted(found)


def identified(schema: Schema, group: str, version: str, kind: str) -> Schema:
    """The schema of a manifest: it must say which API version and kind it is, and be the right one."""
    api_version = f"{group}/{version}" if group else version
    properties = {
        **schema.get("properties", {}),
        "apiVersion": {"type": "string", "enum": [api_version]},
        "kind": {"type": "string", "enum": [kind]},
    }
    required = sorted({*schema.get("required", []), "apiVersion", "kind"})
    return {**schema, "type": "object", "properties": properties, "required": required}


def built_in_file_name(group: str, version: str, kind: str) -> str:
    """Where kubeconform's default layout looks for a kind: only the first part of the group counts."""
    parts = [kind, *([group.split(".", maxsplit=1)[0]] if group else []), version]
    return "-".join(parts).lower() + ".json"


def custom_file_name(group: str, version: str, kind: str) -> str:
    """The layout for custom resources: {{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json."""
    return f"{group}/{kind.lower()}_{version}.json"


def built_in_schemas(swagger: Schema) -> Iterator[tuple[str, Schema]]:
    """File name and self-contained schema of every kind in Kubernetes' own specification."""
    originals: dict[str, Schema] = swagger["definitions"]
    definitions = {
        name: {"type": STRING_OR_NUMBER[name]} if name in STRING_OR_NUMBER else convert(schema)
        for name, schema in originals.items()
    }
    for name, original in originals.items():
        kinds = original.get("x-kubernetes-group-version-kind", [])
        if len(kinds) != 1:  # what belongs to every group, such as DeleteOptions, is no manifest
            continue
        group, version, kind = kinds[0]["group"], kinds[0]["version"], kinds[0]["kind"]
        schema = identified(definitions[name], group, version, kind)
        needed = {needed: definitions[needed] for needed in reachable(name, definitions)}
        yield built_in_file_name(group, version, kind), {**schema, "definitions": needed}


def custom_schemas(manifest: Schema) -> Iterator[tuple[str, Schema]]:
    """File name and schema of every version that a CustomResourceDefinition serves."""
    if manifest.get("kind") != "CustomResourceDefinition":
        return
    spec = manifest["spec"]
    for version in spec["versions"]:
        if not version.get("served", True):
            continue
        schema = convert(version["schema"]["openAPIV3Schema"])
        where = (spec["group"], version["name"], spec["names"]["kind"])
        yield custom_file_name(*where), identified(schema, *where)
