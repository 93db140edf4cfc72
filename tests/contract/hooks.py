"""What openapi.yaml has no words for, told to schemathesis: rules between two members, media types, and how much time there is."""
import json

import schemathesis

SOON = "100ms"


@schemathesis.serializer("application/x-tar")
def tar(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.deserializer("application/x-ndjson")
def lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


def is_right(case):
    """Was the request meant to be one that is taken?"""
    return case.meta is not None and case.meta.generation.mode.value == "positive"


@schemathesis.hook
def before_call(context, case, kwargs):
    if not is_right(case):
        return
    query, body = case.query or {}, case.body
    if "timeout" in query:
        query["timeout"] = SOON  # there is no time to wait for what does not come
    if "timeout" in query and "state" not in query and not query.get("wait"):
        del query["timeout"]  # "needs something to wait for"
    if query.get("wait") and case.operation.path == "/bottles":
        query["start"] = True  # "needs start=true"
    if case.operation.path == "/bottles/{slug}/logs":
        query["follow"] = False  # a stream without end
    if isinstance(body, dict) and body.get("detach"):
        for name in ("stdin_open", "tty", "rows", "cols", "max_output_bytes"):
            body.pop(name, None)  # what goes with a client that stays
