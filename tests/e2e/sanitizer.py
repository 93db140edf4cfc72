"""Reports of programs that were built with a sanitizer (tests/sanitize/options.c): any is a fault of the test it came in."""

LONGEST = 6000


def folder(build):
    return build / "reports" / "programs"


def is_in(build):
    program = build / "bottled"
    return program.exists() and b"__asan_default_options" in program.read_bytes()


def prepare(build):
    """Makes the folder of the reports, for every user that a bottle may run as. Without a sanitizer it stays empty."""
    folder(build).mkdir(parents=True, exist_ok=True)
    folder(build).chmod(0o1777)
    take(build)


def take(build):
    """What was reported since the last call, in words; None when nothing was."""
    words = []
    for path in sorted(folder(build).glob("*")):
        words.append(f"{path.name}:\n{path.read_text(errors='replace')[:LONGEST]}")
        path.unlink()
    return "\n".join(words) or None
