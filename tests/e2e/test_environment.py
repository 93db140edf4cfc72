"""What a plan says of the environment, the command and the folder arrives in the guest byte for byte."""
import base64
import hashlib
import pytest

# Every byte that can be in valid UTF-8: one character for each of U+0001 to U+00FF, and for each lead byte.
EACH = {f"BYTE_{number:03d}": chr(number) for number in range(1, 256)}
LEADS = "".join(
    [chr(lead << 6 & 0x7FF) for lead in range(0x02, 0x20)]
    + [chr(max(0x800, lead << 12)) for lead in range(0x10) if lead != 0xD]
    + ["\ud7ff", "\U00010000", "\U00040000", "\U00080000", "\U000c0000", "\U00100000", "\U0010ffff", "\uffff", "\ufeff"]
)
VALUES = {
    "LEADS": LEADS,
    "ALL": "".join(map(chr, range(1, 256))),
    "EMPTY": "",
    "QUOTES": "it's \"quoted\" `so` \\ and \\\\ \\n \\x41",
    "NEWLINES": "\n\none\r\ntwo\n",
    "DOLLAR": "$HOME ${HOME} $(id) $$ %s %n",
    "SPACES": "  both ends  ",
    "TABS": "\t\v\f",
    "SEMICOLONS": "a;b&c|d>e<f*g?h[i]j{k}l~m#n!o",
    "EQUALS": "=a=b=",
    "COMMA_OPTION": "a,b=c,,d console=ttyS0 init=/bin/sh --",
    "BIG": "x" * 30000 + "\u00e9" * 15000,
    "_": "underscore",
    "lower": "case",
}


def sent_and_got(daemon, env, **plan):
    """The plan's resolved environment and /proc/self/environ of the command in the guest, both as dicts of bytes."""
    bottle = daemon.run({"command": ["base64", "/proc/self/environ"], "env": env, **plan})
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 0), (bottle, daemon.log(bottle["slug"])[-500:])
    resolved = daemon.get(f"/bottles/{bottle['slug']}/plan").json()["guest"]["env"]
    raw = base64.b64decode(daemon.log(bottle["slug"]))
    assert raw.endswith(b"\0")
    entries = [entry.split(b"=", 1) for entry in raw[:-1].split(b"\0")]
    assert len(entries) == len({name for name, _ in entries}), "a variable is there twice"
    got = {name.decode(): value for name, value in entries}
    return {name: value.encode() for name, value in resolved.items()}, got


@pytest.mark.backends
def test_each_byte(shared):
    resolved, got = sent_and_got(shared, {**EACH, **VALUES})
    for name, value in {**EACH, **VALUES}.items():
        assert got.get(name) == value.encode(), name
    assert got == resolved, "the command has exactly the plan's environment"
    present = set(b"".join(value.encode() for value in {**EACH, **VALUES}.values()))
    never = {0, 0xC0, 0xC1, *range(0xF5, 0x100)}
    assert present == set(range(256)) - never, "bytes that were not tried"


@pytest.mark.backends
def test_environment_is_exactly_the_plans(shared):
    resolved, got = sent_and_got(shared, {})
    assert got == resolved
    assert got["HTTPS_PROXY"] == got["https_proxy"] == b"http://proxy.internal:8888"
    assert b"proxy.internal" in got["NO_PROXY"] and b"127.0.0.1" in got["no_proxy"]


@pytest.mark.backends
def test_digest_of_60000_bytes(shared):
    """Computed in the guest, by a program that read it as a shell does."""
    value = "".join(chr(33 + number * 7919 % 90) for number in range(59996)) + " \n $"
    assert len(value.encode()) == 60000
    bottle = shared.run({"command": ["sh", "-c", 'printf %s "$BIG" | sha256sum'], "env": {"BIG": value}})
    assert shared.log(bottle["slug"]).split()[0] == hashlib.sha256(value.encode()).hexdigest()


def test_arguments(shared):
    """Arguments too: hostile ones, empty ones, long ones."""
    words = ["", " ", "a b", "\n", "$HOME", "'\"", "\\", "*", "-n", "\u00e9\U0001f37e", "x" * 60000]
    command = ["sh", "-c", 'for word in "$@"; do printf "%s\\0" "$word"; done | base64', "sh", *words]
    bottle = shared.run({"command": command})
    raw = base64.b64decode(shared.log(bottle["slug"]))
    assert raw.decode().split("\0")[:-1] == words


def test_workdir(shared):
    for workdir in ("/", "/tmp", "/made/for the \u00e9/bottle"):
        bottle = shared.run({"command": ["pwd"], "workdir": workdir})
        assert shared.log(bottle["slug"]) == f"{workdir}\n", bottle


@pytest.mark.backends
def test_output_of_every_byte(shared):
    """And the other way: what the command writes is in its log byte for byte."""
    script = "i=0; while [ $i -lt 256 ]; do printf \"\\\\$(printf %o $i)\"; i=$((i+1)); done"
    bottle = shared.run({"command": ["sh", "-c", script]})
    reply = shared.get(f"/bottles/{bottle['slug']}/logs?stream=command")
    assert reply.body == bytes(range(256))


def test_both_streams_are_in_the_log(shared):
    bottle = shared.run({"command": ["sh", "-c", "echo out; echo err >&2"]})
    assert sorted(shared.log(bottle["slug"]).split()) == ["err", "out"]
