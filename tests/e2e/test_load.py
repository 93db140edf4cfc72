"""Many clients at once, for LOAD_SECONDS: whatever they do to one another's bottles, each answer is one that the contract has, and
bottled knows as many bottles at the end as are there. Under ThreadSanitizer (make tsan-load) a report is a fault as well."""
import os
import random
import threading
import time

import pytest

SECONDS = float(os.environ.get("LOAD_SECONDS", "4"))
CLIENTS, SLUGS = 12, 8
PLAN = {"command": ["true"], "labels": {"of": "load"}}
# Whoever comes second is told so; what else may be said is an error of the test's.
EXPECTED = {200, 201, 202, 204, 304, 404, 409, 412, 504}


def create(box, slug):
    return box.post("/bottles", {**PLAN, "slug": slug})


def create_and_start(box, slug):
    return box.post("/bottles?start=true&wait=running&timeout=5s", {**PLAN, "slug": slug})


CALLS = [
    create,
    create,
    create_and_start,
    lambda box, slug: box.get(f"/bottles/{slug}"),
    lambda box, slug: box.request("HEAD", f"/bottles/{slug}"),
    lambda box, slug: box.get(f"/bottles/{slug}/plan"),
    lambda box, slug: box.get(f"/bottles/{slug}/stats"),
    lambda box, slug: box.get(f"/bottles/{slug}/wait?state=running&timeout=100ms"),
    lambda box, slug: box.get(f"/bottles/{slug}/cleanup-plan"),
    lambda box, slug: box.get(f"/bottles/{slug}/logs"),
    lambda box, slug: box.post(f"/bottles/{slug}/start"),
    lambda box, slug: box.post(f"/bottles/{slug}/stop?grace=0s"),
    lambda box, slug: box.request("PATCH", f"/bottles/{slug}", {"labels": {"at": str(time.monotonic_ns())}}),
    lambda box, slug: box.delete(f"/bottles/{slug}"),
    lambda box, slug: box.get("/bottles?limit=3"),
    lambda box, slug: box.get("/bottles?label=of%3Dload&state=running"),
    lambda box, slug: box.get("/events?limit=50&after=5"),
    lambda box, slug: box.get("/events?slug=" + slug),
    lambda box, slug: box.post("/plans", PLAN),
    lambda box, slug: box.get("/limits"),
    lambda box, slug: box.get("/readyz"),
    lambda box, slug: box.get("/backends"),
]


def client(box, seed, until, faults):
    rng = random.Random(seed)
    count = 0
    while time.monotonic() < until:
        call, slug = rng.choice(CALLS), f"load{rng.randrange(SLUGS)}"
        try:
            reply = call(box, slug)
        except Exception as fault:  # noqa: BLE001: a connection that ended without an answer is one too
            faults.append(f"{slug}: {fault!r}")
            return
        if reply.status not in EXPECTED:
            faults.append(f"{slug}: {reply}")
            return
        count += 1
    faults.append(count)


@pytest.mark.timeout(300)
def test_many_clients_at_once(fake):
    box = fake.daemon
    told, until = [], time.monotonic() + SECONDS
    clients = [threading.Thread(target=client, args=(box, seed, until, told)) for seed in range(CLIENTS)]
    for one in clients:
        one.start()
    for one in clients:
        one.join()
    faults = [one for one in told if isinstance(one, str)]
    assert not faults, faults[:3]
    assert sum(told) > CLIENTS * 5, told
    listed = [bottle["slug"] for bottle in box.get("/bottles?limit=1000").json()["bottles"]]
    assert sorted(listed) == sorted(f"load{n}" for n in range(SLUGS) if box.bottle(f"load{n}"))
    for slug in listed:
        box.remove(slug)
    assert box.stop(60) == 0


def test_a_few_real_ones(daemon):
    """Started at once by as many clients, spoken to, and ended."""
    slugs = ["one", "two", "three"]

    def live(slug):
        daemon.create({"slug": slug, "command": ["sleep", "1000"]}, "?start=true&wait=running&timeout=100s")
        daemon.post(f"/bottles/{slug}/exec", {"command": ["true"]})
        daemon.post(f"/bottles/{slug}/stop?grace=0s&wait=stopped")

    threads = [threading.Thread(target=live, args=(slug,)) for slug in slugs]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert [daemon.bottle(slug)["state"] for slug in slugs] == ["stopped"] * 3
