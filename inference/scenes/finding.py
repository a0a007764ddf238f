"""What is found in a scene that is unlike the chips of training."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing that is unlike, in words for the user, and what to do about it."""

    code: str
    """Short name of the kind of finding, for tags and STAC: "pixel size"."""
    line: str
    """What is found, without the scene's name."""
    cure: str = ""
    """What to do; "" if nothing needs to be done."""
    is_gross: bool = False
    """Whether a map of the scene would be wrong, so that it is refused by default."""

    def __str__(self) -> str:
        return f"{self.line}; {self.cure}" if self.cure else self.line
