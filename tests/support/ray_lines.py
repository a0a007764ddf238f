"""What a command with Ray workers says: each line once, ours last, and none of the libraries' own."""

import re

SPEAKER = re.compile(r"\x1b\[\d+m\(.*? pid=.*?\)\x1b\[0m ")
"""What Ray writes before the line of a worker."""
OF_RAY = re.compile(r"\[\d{4}-\d\d-\d\d [\d:,]+ E \d+ \d+\] core_worker\.cc")
"""What Ray's core says about Ray Train's own actors, and no option hides."""
NOISE = ("concurrency=", "deprecat", "botocore", "credentials", "Failed to query", "resources: ", "Traceback")


def assert_said_once(said: str, stage: str) -> list[str]:
    """Look whether a stage shows progress, makes no noise and says last what comes next; return its lines."""
    lines = [SPEAKER.sub("", line) for line in said.splitlines()]
    lines = [line for line in lines if not OF_RAY.match(line)]
    assert lines[-1].startswith("next: treeline "), stage
    assert not {line for line in lines if lines.count(line) > 1}, stage
    assert not [line for line in lines for word in NOISE if word in line], stage
    assert any(line.startswith(f"{stage}") for line in lines), "progress is shown"
    return lines
