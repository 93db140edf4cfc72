"""What happens to a guest as a whole, and why a command could not run or ended: each told apart."""
import pace
import test_exec

SLUG = "mishaps"
# It fills what it may write to once it is told to, and ends of it.
COMMAND = "while ! [ -e /go ]; do sleep 0.1; done; dd if=/dev/zero of=/fill bs=1M 2>/dev/null || exit 3"


def events(daemon, slug, kind):
    return [event["detail"]["reason"] for event in daemon.get(f"/events?slug={slug}&type=guest.{kind}").json()["events"]]


def test_a_command_that_takes_all_memory(shared):
    bottle = shared.run({"command": ["sh", "-c", "exec tail /dev/zero"], "resources": {"memory_mib": 128}})
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 137)
    assert "out of memory" in bottle["reason"] and bottle["reason"].endswith("its kernel killed the command, tail")
    pace.until(lambda: events(shared, bottle["slug"], "out-of-memory"))
    assert "its kernel killed tail (process " in events(shared, bottle["slug"], "out-of-memory")[0]


def test_what_happens_beside_the_command(shared):
    shared.create({"slug": SLUG, "command": ["sh", "-c", COMMAND], "resources": {"memory_mib": 128}}, "?start=true&wait=running")

    forged = "echo \'Out of memory: Killed process 77 (forged) total-vm:1kB\' > /dev/kmsg"
    assert test_exec.run(shared, forged, slug=SLUG)["exit_code"] == 0
    killed = test_exec.run(shared, ["tail", "/dev/zero"], slug=SLUG)
    assert (killed["exit_code"], killed["signal"]) == (137, 9)
    pace.until(lambda: events(shared, SLUG, "out-of-memory"))
    assert [words for words in events(shared, SLUG, "out-of-memory") if "killed tail" not in words] == []

    test_exec.run(shared, "printf '#!/no/such/thing\\n' > /lost; echo text > /plain; chmod +x /lost /plain", slug=SLUG)
    for program, code, words in [
        ("/lost", 126, "the interpreter or loader that it names is not there"),
        ("/plain", 126, "nor a script that begins with #!"),
        ("/etc", 126, "Permission denied"),
        ("/nowhere", 127, "No such file or directory"),
        ("nowhere", 127, "was not found in the directories of PATH"),
    ]:
        result = test_exec.run(shared, [program], slug=SLUG)
        assert result["exit_code"] == code and words in result["reason"], result

    test_exec.run(shared, "touch /go", slug=SLUG)
    bottle = shared.wait(SLUG, "exited")
    assert (bottle["state"], bottle["exit_code"]) == ("exited", 3), bottle
    assert "killed tail (process " in bottle["reason"] and "the memory that it writes to is full" in bottle["reason"]
    assert len(events(shared, SLUG, "disk-full")) == 1
