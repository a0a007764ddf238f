"""A watch for collapse: the signs of one step after another in, a warning in words out."""

from dataclasses import dataclass
from typing import Any

from trainer.pretrain.distillation import Health

STEPS = 50
"""Steps in a row that a sign must be seen."""
UNIFORM = 0.95
"""Share of ln K. Targets whose entropy stays above it say nothing about their tile."""
FEW = 2.5
"""Number of prototypes in effect, exp(entropy of a batch's mean target). Without centring it falls to two or
one within 50 steps on small runs; healthy ones have four and more (docs/pretraining.md)."""


@dataclass
class Watch:
    """Watch over a training; it warns once."""

    stops: bool = False
    """Whether a collapse ends the run."""
    uniform: int = 0
    """Steps in a row in which the targets said nothing."""
    few: int = 0
    """Steps in a row in which all tiles shared one or two targets."""
    warned: bool = False
    """Whether the warning was given."""

    def after_step(self, health: Health) -> str:
        """Return a warning, or "".

        Raises:
            FloatingPointError: the tokens collapsed, and the run is to stop.
        """
        self.uniform = self.uniform + 1 if health.teacher_entropy > UNIFORM else 0
        self.few = self.few + 1 if health.prototypes_in_effect < FEW else 0
        found = ""
        if self.uniform >= STEPS:
            found = (
                f"the tokens collapse: for {STEPS} steps the teacher's targets have been nearly uniform "
                f"(entropy {health.teacher_entropy:.0%} of ln K), so there is nothing to learn; lower "
                "--teacher-temperature or --learning-rate"
            )
        elif self.few >= STEPS:
            found = (
                f"the tokens collapse: for {STEPS} steps all tiles have shared one or two targets "
                f"({health.prototypes_in_effect:.1f} prototypes in effect); use --centring mean or sinkhorn, "
                "raise --teacher-temperature, or lower --learning-rate"
            )
        if not found or self.warned:
            return ""
        self.warned = True
        if self.stops:
            raise FloatingPointError(found)
        return found

    def state(self) -> dict[str, Any]:
        """Return what a run needs to resume, as plain JSON values."""
        return {"uniform": self.uniform, "few": self.few, "warned": self.warned}

    def restore(self, values: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.uniform, self.few, self.warned = values["uniform"], values["few"], values["warned"]
