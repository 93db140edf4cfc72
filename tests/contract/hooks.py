"""What openapi.yaml has no words for, told to schemathesis: rules between two members, media types, how much time there is, and
which bottles there are."""
import json
import os
import re
import zlib

import schemathesis
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation import GenerationMode

SOON = "100ms"
LINE = "[\t -~\x80-\xff]*"
HEADERS = {"last-event-id": "[0-9]{1,15}|[0-8][0-9]{15}|900[0-6][0-9]{12}|900719925474099[01]", "idempotency-key": "[!-~]{1,255}"}
BOTTLES = os.environ.get("CONTRACT_BOTTLES", "").split()


@schemathesis.serializer("application/x-tar")
def tar(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


@schemathesis.deserializer("text/event-stream")
def events(context, response):
    return response.content.decode()


def is_right(case):
    """Was the request meant to be one that is taken?"""
    return case.meta is not None and case.meta.generation.mode.value == "positive"


def headers_are_right(sent):
    """As they were sent: a number is text there, spaces around a value are not its own, what could not be sent is not there,
    and those that nobody knows are right as long as their bytes are."""
    headers = {name.lower(): value if isinstance(value, str) else value.decode("latin-1") for name, value in sent.items()}
    return all(re.fullmatch(HEADERS.get(name, LINE), value.strip(" \t")) for name, value in headers.items())


def keep_rules(path, query, body):
    """Rules between members."""
    waits = query.get("wait") in ("true", True) if path == "/images" else query.get("wait") or path.endswith("/wait")
    query.pop("timeout", None)  # "needs something to wait for"
    if waits:
        query["timeout"] = SOON  # there is no time to wait for what does not come
    if query.get("wait") and path == "/bottles":
        query["start"] = "true"
    if path == "/bottles/{slug}/logs":
        query["follow"] = "false"  # a stream without end
    if isinstance(body, dict) and path == "/bottles/{slug}/exec":
        body["timeout_seconds"] = 1
    if isinstance(body, dict) and body.get("detach"):
        for name in ("stdin_open", "tty", "rows", "cols", "max_output_bytes"):
            body.pop(name, None)  # what goes with a client that stays


@schemathesis.check
def deleted_is_gone(context, response, case):
    """What use_after_free looks for, of deletions that were answered with success: that one takes a refused one as well."""
    if not 200 <= response.status_code < 400:
        return
    for other in context._find_related(case_id=case.id):
        answer = context._find_response(case_id=other.id)
        if other.method.upper() != "DELETE" or answer is None or not 200 <= answer.status_code < 300:
            continue
        gone, used = other.formatted_path, case.formatted_path
        assert used != gone and not used.startswith(gone + "/"), f"{case.method} {used}: {response.status_code} after DELETE {gone}: {answer.status_code}"


@schemathesis.hook
def before_call(context, case, kwargs):
    if not is_right(case):
        return
    path = case.operation.path
    keep_rules(path, case.query if case.query is not None else {}, case.body)
    if BOTTLES and "slug" in (case.path_parameters or {}) and case.method.upper() != "DELETE":
        case.path_parameters["slug"] = BOTTLES[zlib.crc32(case.id.encode()) % len(BOTTLES)]
    if path == "/events":
        (case.headers or {}).pop("Accept", None)  # a stream without end


@schemathesis.hook
def after_call(context, case, response):
    parts = case.meta.components if case.meta else {}
    wrong = [where for where, part in parts.items() if part.mode is GenerationMode.NEGATIVE]
    if wrong == [ParameterLocation.HEADER] and headers_are_right(response.request.headers):
        parts[ParameterLocation.HEADER].mode = case.meta.generation.mode = GenerationMode.POSITIVE
