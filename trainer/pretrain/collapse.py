"""A watch for collapse: the signs of one step after another in, a warning in words out."""

from dataclasses import dataclass
from typing import Any

from trainer.pretrain.distillation import Health

STEPS = 50
"""Steps in a row that a sign must be seen."""
UNIFORM, ONE = 0.95, 0.1
"""Shares of ln K. Targets whose entropy stays above the first say nothing about their tile. A batch whose
mean target's entropy stays below the second has one target for all its tiles."""


@dataclass
class Watch:
    """Watch over a training; it warns once."""

    stops: bool = False
    """Whether a collapse ends the run."""
    uniform: int = 0
    """Steps in a row in which the targets said nothing."""
    one: int = 0
    """Steps in a row in which all tiles had the same target."""
    warned: bool = False
    """Whether the warning was given."""

    def after_step(self, health: Health) -> str:
        """Return a warning, or "".

        Raises:
            FloatingPointError: the tokens collapsed, and the run is to stop.
        """
        self.uniform = self.uniform + 1 if health.teacher_entropy > UNIFORM else 0
        self.one = self.one + 1 if health.batch_entropy < ONE else 0
        found = ""
        if self.uniform >= STEPS:
            found = (
                f"the tokens collapse: for {STEPS} steps the teacher's targets have been nearly uniform "
                f"(entropy {health.teacher_entropy:.0%} of ln K), so there is nothing to learn; lower "
                "--teacher-temperature or --learning-rate"
            )
        elif self.one >= STEPS:
            found = (
                f"the tokens collapse: for {STEPS} steps all tiles have had nearly the same target (entropy "
                f"of the batch {health.batch_entropy:.0%} of ln K, {health.prototypes_used} prototypes in "
                "use); use --centring mean or sinkhorn, raise --teacher-temperature, or lower --learning-rate"
            )
        if not found or self.warned:
            return ""
        self.warned = True
        if self.stops:
            raise FloatingPointError(found)
        return found

    def state(self) -> dict[str, Any]:
        """Return what a run needs to resume, as plain JSON values."""
        return {"uniform": self.uniform, "one": self.one, "warned": self.warned}

    def restore(self, values: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.uniform, self.one, self.warned = values["uniform"], values["one"], values["warned"]
