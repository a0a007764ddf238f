"""A training's model beside its baselines, on the chips held out: one more pass when it is over."""

from shards.progress import progress
from trainer.data.feed import Fed
from trainer.data.step_inputs import never_empty
from trainer.fit.labelled import BATCH, LabelledObjective
from trainer.fit.loop import Fit
from trainer.fit.scoring import Sums, add_up
from trainer.score.compared import Compared


def beside_baselines(fit: Fit) -> Compared | None:
    """Compare the best epoch of a training with the baselines; one rank does it alone, and waits for none.

    Returns:
        None if no chip is held out, or if the objective has no baselines.
    """
    learning, objective = fit.learning, fit.objective
    chips, dataset = learning.val_chips, learning.dataset
    if not isinstance(objective, LabelledObjective) or not chips.size:
        return None
    with progress("baselines", chips.size, objective.learns_from) as advance:

        def sums_of(fed: Fed) -> Sums:
            advance(fed.batch.size)
            sums: Sums = objective.baseline_sums(fed)
            return sums

        batches = never_empty(dataset.batches(chips, BATCH), dataset.schema, chips)
        sums = add_up(sums_of, batches, dataset.schema, learning.ranks.device)
    found: Compared = objective.compared(min(fit.records, key=objective.standing), sums)
    return found
