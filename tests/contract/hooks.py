"""What openapi.yaml has no words for, told to schemathesis: rules between two members, media types, how much time there is, and
which bottles there are."""
import json
import os
import zlib

import schemathesis

SOON = "100ms"
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
