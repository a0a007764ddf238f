"""Something about a scene that does not fit the training, and its cure."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

OnMismatch = Literal["refuse", "note", "ignore"]
"""What to do about findings: refuse scenes with a gross one and note the others, note all, or say nothing."""
FINDINGS_TAG = "TREELINE_FINDINGS"
"""Tag of a map whose scene has findings: their lines by code, as JSON."""
NAMED = 3
"""Most scenes that the line of a finding names, where many have the same one."""


@dataclass(frozen=True)
class Finding:
    """A difference between a scene and the training that its user should know."""

    code: str
    """Short name that never changes, for tags and STAC items."""
    line: str
    """What was found and what it looks like, without the scene's name and the cure."""
    cure: str
    """What to do about it."""
    is_gross: bool = False
    """Whether the scene is refused unless the user wants otherwise."""


def refusal(url: str, findings: Iterable[Finding], on_mismatch: OnMismatch) -> str:
    """Say in a line why a scene with these findings is refused; "" if it is not."""
    gross = [finding for finding in findings if finding.is_gross]
    if on_mismatch != "refuse" or not gross:
        return ""
    said = "; ".join(f"{finding.line}; {finding.cure}" for finding in gross)
    return f"{url}: {said}, or give --on-mismatch note"


def findings_json(findings: Iterable[Finding]) -> str:
    """Write findings as short JSON for a tag: lines by code."""
    return json.dumps({finding.code: finding.line for finding in findings}, ensure_ascii=True)


def noted(found: Iterable[tuple[str, Finding]], on_mismatch: OnMismatch) -> list[str]:
    """Say each finding in a line, with its scene, or with the number of scenes that have the same one.

    Args:
        found: URLs of scenes that are used, each with a finding.
        on_mismatch: "ignore" says nothing.
    """
    if on_mismatch == "ignore":
        return []
    same: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for url, finding in found:
        same.setdefault((finding.code, finding.cure), []).append((url, finding))
    lines = []
    for scenes in same.values():
        url, finding = scenes[0]
        if len(scenes) <= NAMED:
            lines += [f"{url}: {finding.line}; {finding.cure}" for url, finding in scenes]
        else:
            lines.append(f"{len(scenes):,} scenes, such as {url}: {finding.line}; {finding.cure}")
    return lines
