"""Policies of pages, as a browser reads them.

assert_forbidding(page)    it fetches nothing, and runs no script but those that it names by their digest
"""

import base64
import hashlib
import re
from html.parser import HTMLParser


class _Head(HTMLParser):
    """Collects the policies of a page, the scripts in it, and what stands before the policy."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.policies, self.scripts, self.before = list[str](), list[str](), list[str]()
        self._in_script = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if (found.get("http-equiv") or "").lower() == "content-security-policy":
            self.policies.append(found["content"] or "")
        elif not self.policies:
            self.before.append(tag)
        self._in_script = tag == "script" and found.get("type") is None
        if self._in_script and "src" not in found:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script and self.scripts:
            self.scripts[-1] += data


def directives(policy: str) -> dict[str, list[str]]:
    """Return the sources of each directive."""
    return {name: sources for name, *sources in (part.split() for part in policy.split(";"))}


def assert_forbidding(page: str) -> None:
    head = _Head(page)
    (policy,) = head.policies
    assert not {"script", "style", "link", "body", "img"} & set(head.before), "it holds for what follows it"
    digests = [base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in head.scripts]
    assert directives(policy) == {
        "default-src": ["'none'"],
        "script-src": sorted({f"'sha256-{one}'" for one in digests}) or ["'none'"],
        "style-src": ["'unsafe-inline'"],
        "img-src": ["data:"],
        "connect-src": ["'none'"],
        "base-uri": ["'none'"],
        "form-action": ["'none'"],
    }
    named = re.findall(r"""(?:src|href|action)\s*=\s*["']?(\w+:[^"'> ]{0,12})""", page)
    assert not [one for one in named if not one.startswith("data:")]
