"""hack/tools/schemas: from OpenAPI to the schemas that kubeconform checks manifests with."""

from __future__ import annotations

import pytest

from hack.tools.openapi import (
    built_in_file_name,
    built_in_schemas,
    convert,
    custom_file_name,
    custom_schemas,
    or_null,
    reachable,
)


def swagger() -> dict:
    return {
        "definitions": {
            "io.k8s.api.apps.v1.Thing": {
                "type": "object",
                "required": ["spec"],
                "properties": {
                    "apiVersion": {"type": "string"},
                    "kind": {"type": "string"},
                    "spec": {"$ref": "#/definitions/io.k8s.api.apps.v1.ThingSpec"},
                },
                "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Thing"}],
            },
            "io.k8s.api.apps.v1.ThingSpec": {
                "type": "object",
                "description": "long",
                "properties": {
                    "port": {"$ref": "#/definitions/io.k8s.apimachinery.pkg.util.intstr.IntOrString"},
                    "again": {"$ref": "#/definitions/io.k8s.api.apps.v1.ThingSpec"},
                },
            },
            "io.k8s.api.apps.v1.Unrelated": {"type": "object"},
            "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
            "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions": {
                "type": "object",
                "x-kubernetes-group-version-kind": [
                    {"group": "", "version": "v1", "kind": "DeleteOptions"},
                    {"group": "apps", "version": "v1", "kind": "DeleteOptions"},
                ],
            },
        }
    }


def test_an_object_refuses_fields_that_it_does_not_name() -> None:
    schema = convert({"type": "object", "properties": {"a": {"type": "object", "properties": {}}}})
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["additionalProperties"] is False


@pytest.mark.parametrize(
    "mark", [{"x-kubernetes-preserve-unknown-fields": True}, {"additionalProperties": {"type": "string"}}]
)
def test_an_object_that_says_it_is_open_stays_open(mark: dict) -> None:
    schema = convert({"type": "object", "properties": {"a": {"type": "string"}}, **mark})
    assert schema.get("additionalProperties") is not False


def test_an_object_without_properties_is_a_free_map() -> None:
    assert convert({"type": "object"}) == {"type": "object"}


def test_a_field_may_be_null_unless_it_is_required() -> None:
    schema = convert(
        {
            "type": "object",
            "required": ["a"],
            "properties": {"a": {"type": "string"}, "b": {"type": "string", "enum": ["x"]}},
        }
    )
    assert schema["properties"]["a"] == {"type": "string"}
    assert schema["properties"]["b"] == {"type": ["string", "null"], "enum": ["x", None]}


def test_nullable_and_null_are_said_once() -> None:
    assert convert({"type": "string", "nullable": True}) == {"type": ["string", "null"]}
    assert or_null({"type": ["string", "null"]}) == {"type": ["string", "null"]}
    assert or_null({"$ref": "#/definitions/a"}) == {"anyOf": [{"$ref": "#/definitions/a"}, {"type": "null"}]}
    assert or_null({}) == {}


def test_a_condition_is_not_closed() -> None:
    schema = convert(
        {
            "type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"properties": {"b": {"enum": ["x"]}}}],
            "not": {"properties": {"a": {"enum": ["y"]}}},
        }
    )
    assert schema["oneOf"] == [{"required": ["a"]}, {"properties": {"b": {"enum": ["x"]}}}]
    assert schema["not"] == {"properties": {"a": {"enum": ["y"]}}}


def test_int_or_string_without_a_type() -> None:
    assert convert({"x-kubernetes-int-or-string": True}) == {"type": ["integer", "string"]}


def test_items_and_map_values_are_converted() -> None:
    inner = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert convert({"type": "array", "items": inner})["items"]["additionalProperties"] is False
    assert convert({"type": "object", "additionalProperties": inner})["additionalProperties"] == convert(
        inner
    )


def test_reachable_ends_although_definitions_are_recursive() -> None:
    definitions = swagger()["definitions"]
    assert reachable("io.k8s.api.apps.v1.Thing", definitions) == [
        "io.k8s.api.apps.v1.ThingSpec",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
    ]


def test_built_in_kinds_are_self_contained_and_name_themselves() -> None:
    schemas = dict(built_in_schemas(swagger()))
    assert list(schemas) == ["thing-apps-v1.json"]
    schema = schemas["thing-apps-v1.json"]
    assert schema["required"] == ["apiVersion", "kind", "spec"]
    assert schema["properties"]["apiVersion"]["enum"] == ["apps/v1"]
    assert schema["properties"]["kind"]["enum"] == ["Thing"]
    assert schema["definitions"]["io.k8s.apimachinery.pkg.util.intstr.IntOrString"] == {
        "type": ["string", "integer"]
    }
    assert "io.k8s.api.apps.v1.Unrelated" not in schema["definitions"]
    assert "description" not in schema["definitions"]["io.k8s.api.apps.v1.ThingSpec"]


def test_file_names_are_those_that_kubeconform_looks_for() -> None:
    assert built_in_file_name("", "v1", "Service") == "service-v1.json"
    assert (
        built_in_file_name("networking.k8s.io", "v1", "NetworkPolicy") == "networkpolicy-networking-v1.json"
    )
    assert custom_file_name("monitoring.coreos.com", "v1", "ServiceMonitor") == (
        "monitoring.coreos.com/servicemonitor_v1.json"
    )


def test_every_served_version_of_a_custom_resource() -> None:
    def version(name: str, *, served: bool) -> dict:
        schema = {"type": "object", "properties": {"metadata": {"type": "object"}}, "required": ["spec"]}
        return {"name": name, "served": served, "schema": {"openAPIV3Schema": schema}}

    definition = {
        "kind": "CustomResourceDefinition",
        "spec": {
            "group": "example.org",
            "names": {"kind": "Thing"},
            "versions": [version("v1", served=True), version("v1beta1", served=False)],
        },
    }
    schemas = dict(custom_schemas(definition))
    assert list(schemas) == ["example.org/thing_v1.json"]
    assert schemas["example.org/thing_v1.json"]["required"] == ["apiVersion", "kind", "spec"]


def test_what_is_no_custom_resource_definition_gives_nothing() -> None:
    assert list(custom_schemas({"kind": "ValidatingAdmissionPolicy", "spec": {}})) == []
    assert list(custom_schemas({})) == []
