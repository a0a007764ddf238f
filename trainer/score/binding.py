"""What ties chips.parquet and examples.npz to the evaluation.json beside them.

Files of an evaluation are written one after another, into a folder that may hold those of an earlier one.
Each file carries the same text, so that a reader tells files of two evaluations apart.
"""

import json
from collections.abc import Mapping
from typing import Any

EVALUATION = "evaluation"
"""Name under which a file carries the text."""
AGAIN = "copy it again, or evaluate again"
"""Advice about a file of an evaluation that cannot be understood."""
_SCORED = ("checkpoint_fingerprint", "fingerprint", "split", "where", "limit", "chips")


def binding(values: Mapping[str, Any]) -> str:
    """Return the text for evaluation.json: what was scored, and the scores over all heights."""
    about = {name: values.get(name) for name in _SCORED}
    totals = {name: score["all"] for name, score in values["scores"].items()}
    return json.dumps({**about, "totals": totals}, sort_keys=True)
