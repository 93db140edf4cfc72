"""openapi.yaml says what the program's own tables say, both ways: fields, routes, problems, states."""
import json
import os
import pathlib
import re
import subprocess

import jsonschema
import openapi_spec_validator
import pytest
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = ROOT / os.environ.get("BUILD", "build")
METHODS = {"get", "put", "post", "delete", "patch"}

# Bounds of a row of the table: what JSON Schema calls them, by the row's type.
LENGTHS = {
    "string": ("minLength", "maxLength"),
    "integer": ("minimum", "maximum"),
    "array": ("minItems", "maxItems"),
    "object": ("minProperties", "maxProperties"),
}


@pytest.fixture(scope="module")
def document():
    return yaml.safe_load((ROOT / "openapi.yaml").read_text())


@pytest.fixture(scope="module")
def tables():
    return json.loads(subprocess.run([BUILD / "test-tools" / "fields"], check=True, capture_output=True).stdout)


def schema(document, name):
    return document["components"]["schemas"][name]


def flatten(part, pointer=""):
    """The fields of a schema by pointer, as the program's table has them."""
    for name, member in part.get("properties", {}).items():
        yield f"{pointer}/{name}", member, name in part.get("required", [])
        yield from flatten(member, f"{pointer}/{name}")
    below = part.get("items") or part.get("additionalProperties")
    if isinstance(below, dict):
        string, *instead = below.get("oneOf", [below])
        yield f"{pointer}/*", string, False
        for one in instead or [string]:
            yield from flatten(one, f"{pointer}/*")


def from_row(row):
    """A row of the table in the words of JSON Schema."""
    least, most = LENGTHS.get(row["type"], ("least", "most"))
    names = {"pattern": row.get("names_pattern"), "maxLength": row.get("names_maximum")}
    values = row.get("values")
    words = {
        "type": row["type"],
        "description": row["description"],
        least: row.get("minimum") if row["type"] == "integer" else row.get("minimum") or None,
        most: row.get("maximum") if not values else None,
        "x-max-total-bytes": row.get("total_bytes"),
        "pattern": row.get("pattern"),
        "propertyNames": names if names["pattern"] else None,
        "enum": values,
        "default": row.get("default"),
    }
    return {word: value for word, value in words.items() if value is not None}


def test_document_is_valid(document):
    openapi_spec_validator.validate(document)


@pytest.mark.parametrize("name, table", [("Plan", "fields"), ("Exec", "exec")])
def test_a_body_has_exactly_the_fields_of_its_table(document, tables, name, table):
    rows = {row["pointer"]: row for row in tables[table] if row["supported"]}
    fields = {pointer: (member, required) for pointer, member, required in flatten(schema(document, name))}
    assert set(fields) == set(rows)
    for pointer, (member, required) in fields.items():
        structure = ("properties", "items", "additionalProperties", "required")
        assert {k: v for k, v in member.items() if k not in structure} == from_row(rows[pointer]), pointer
        assert required == rows[pointer]["required"], pointer
        assert (f"{pointer}/host" in fields) == rows[pointer].get("or_object", False), pointer
        if member["type"] == "object" and not isinstance(member.get("additionalProperties"), dict):
            assert member["additionalProperties"] is False, pointer


def test_unsupported_fields_are_named(document, tables):
    description = schema(document, "Plan")["description"]
    for row in tables["fields"]:
        if not row["supported"]:
            assert f"`{row['pointer'][1:].replace('/', '.')}`" in description


def test_routes_are_those_of_the_table(document, tables):
    described = {}
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            parameters = [resolve(document, p) for p in item.get("parameters", []) + item[method].get("parameters", [])]
            query = {p["name"]: most(document, p) for p in parameters if p["in"] == "query"}
            assert {p["name"] for p in parameters if p["in"] == "path"} == set(re.findall(r"{(\w+)}", path)), path
            who = item[method]["x-role"], item[method].get("x-open", False)
            described[method.upper(), path] = (who, "requestBody" in item[method], query)
    rows = {
        (row["method"], row["path"]): ((row["role"], row["open"]), row["body"], {q["name"]: q["most"] for q in row["query"]})
        for row in tables["routes"]
    }
    assert described == rows


def operations(document):
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            yield method.upper(), path, item[method], item.get("parameters", []) + item[method].get("parameters", [])


def test_answers_are_of_the_media_types_of_the_table(document, tables):
    rows = {(row["method"], row["path"]): row["media"] for row in tables["routes"]}
    for method, path, operation, _ in operations(document):
        media = set()
        for status, response in operation["responses"].items():
            if status.startswith("2"):
                media |= set(resolve(document, response).get("content", {}))
        if rows[method, path] is None:
            assert len(media) > 1, path
        else:
            assert media <= set(rows[method, path]), (method, path)
            assert media == set(rows[method, path]) or not media, (method, path)


def test_every_post_has_an_idempotency_key(document, tables):
    retries = {(row["method"], row["path"]): row["retry"] for row in tables["routes"]}
    for method, path, _, parameters in operations(document):
        headers = {resolve(document, one)["name"] for one in parameters if resolve(document, one)["in"] == "header"}
        assert ("Idempotency-Key" in headers) == (method == "POST" and path != "/session"), (method, path)
        assert method == "POST" or retries[method, path] == 0, "only a POST has a key"


def test_every_problem_is_explained(document, tables):
    """With its status and title, as the table has them."""
    words = re.findall(r"^- `([a-z-]+)` \((\d+)\): (.+)$", schema(document, "ProblemType")["description"], re.M)
    assert set(words) == {(name, str(status), tables["titles"][name]) for name, status in tables["problems"].items()}


def most(document, parameter):
    """How many times it may be in an address."""
    value = resolve(document, parameter["schema"])
    return value["maxItems"] if value.get("type") == "array" and parameter.get("explode", True) else 1


def resolve(document, part):
    """Follows a $ref within the document."""
    for name in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else []:
        document = document[name]
    return document if "$ref" in part else part


def test_lists_are_those_of_the_tables(document, tables):
    assert schema(document, "State")["enum"] == tables["states"]
    assert schema(document, "Sidecar")["enum"] == tables["sidecars"]
    assert schema(document, "CleanupItem")["properties"]["kind"]["enum"] == tables["kinds"]
    assert schema(document, "EventType")["enum"] == tables["events"]
    assert schema(document, "EventFamily")["enum"] == sorted({f"{name.split('.')[0]}.*" for name in tables["events"]})
    assert schema(document, "ExecSignal")["properties"]["signal"]["enum"] == tables["signals"]
    prefix = tables["problem_prefix"]
    assert set(schema(document, "ProblemType")["enum"]) == {prefix + name for name in tables["problems"]}


def test_fault_codes_are_those_of_the_decoder(document):
    names = ("api/field.c", "api/spec.c", "api/spec_mounts.c", "api/patch.c", "backends/mounts.c", "server/secrets.c")
    source = "".join((ROOT / name).read_text() for name in names)
    used = set(re.findall(r"\bfault\(\s*(?:walk|problem),\s*[^\"]*?(?:\"/[^\"]*\",\s*)?\"([a-z-]+)\"", source))
    used |= set(re.findall(r"pointer(?: : \"/env\")?, \"([a-z]+)\",", source))
    used |= set(re.findall(r"\bplace, \"([a-z-]+)\"", source))
    used |= set(re.findall(r"\bfault\(problem, name,[^;]*?\"(?:from_file|from_env)\",\s*\"([a-z-]+)\"", source))
    assert used == set(schema(document, "Fault")["properties"]["code"]["enum"])


def test_problems_in_responses_fit_their_status(document, tables):
    """A response that names problem types names only those of its status."""
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            for status, response in item[method]["responses"].items():
                described = resolve(document, response)["description"]
                for name in set(re.findall(r"`([a-z-]+)`", described)) & set(tables["problems"]):
                    assert status == "default" or int(status) == tables["problems"][name], (path, status, name)


def test_every_kind_in_the_sources_is_a_problem(tables):
    call = re.compile(r"\b(?:error_set|error_errno|problem_set|reply_fault)\(\s*[^,\"]+,\s*\"([a-z-]+)\"")
    for folder in ("base", "renderers", "api", "backends", "shim", "server"):
        for source in (ROOT / folder).glob("*.c"):
            for name in call.findall(source.read_text()):
                assert name in tables["problems"], f"{source}: {name}"


def test_examples_are_plans(document):
    validator = jsonschema.Draft202012Validator(schema(document, "Plan"))
    media = document["components"]["requestBodies"]["Plan"]["content"]["application/json"]
    for example in media["examples"].values():
        validator.validate(example["value"])
    for wrong in ({}, {"command": []}, {"command": ["x"], "comand": 1}, {"command": ["x"], "slug": "A"},
                  {"command": ["x"], "sidecars": {"git_gate": {"x": 1}}}, {"command": ["x"], "env": {"1": ""}}):
        assert not validator.is_valid(wrong), wrong
