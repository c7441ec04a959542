"""What a method is made of: rounds of fits, each written for one head and vmapped over the grid."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from w2s_jax.heads.losses import Loss, cross_entropy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RoundInputs:
    """What one head's round may look at. No true label and no group is in it.

    Rows are in draw order, padded to a bucket.

    Attributes:
        teacher_probabilities: teacher's class probabilities on the unlabelled rows ``[n, c]``.
        logits: the student's logits after the previous round ``[k, n]``; zeros before the first.
        valid: False for padding ``[n]``.
        hyperparameters: scalars by name, those the round reads and ``keep_count``, the number of
            rows that ``keep_fraction`` keeps.
    """

    teacher_probabilities: Float[Array, "n c"]
    logits: Float[Array, "k n"]
    valid: Bool[Array, " n"]
    hyperparameters: Mapping[str, Array]


Function = Callable[[RoundInputs], Array]


def _cross_entropy(hyperparameters: Mapping[str, Array]) -> Loss:
    return cross_entropy()


@dataclasses.dataclass(frozen=True)
class Fit:
    """One convex-style problem on the unlabelled rows, for the solver.

    Its functions must be module-level: two methods whose first rounds are equal share their heads.

    Attributes:
        targets: one head's targets: class indices ``[n]`` (integers) or soft targets ``[n, c]``
            that sum to one and may be negative.
        weights: one head's sample weights ``[n]``, >= 0; None weighs all rows alike.
        loss: the loss, from hyperparameters of all heads ``[h]``.
        l2: name of the hyperparameter that is the penalty.
        reads: hyperparameters that `targets`, `weights` and `loss` read.
        warm_start: start from the previous round's head instead of zero.
    """

    targets: Function
    weights: Function | None = None
    loss: Callable[[Mapping[str, Array]], Loss] = _cross_entropy
    l2: str = "student_l2"
    reads: tuple[str, ...] = ()
    warm_start: bool = False

    @property
    def hyperparameters(self) -> tuple[str, ...]:
        """All hyperparameters that decide this round's heads."""
        return tuple(sorted({self.l2, *self.reads}))


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to train a student from a teacher's pseudolabels.

    Attributes:
        name: as in result rows and flags.
        rounds: the rounds, given the options' values by name.
        options: names of the grid's categorical axes that `rounds` reads.
    """

    name: str
    rounds: Callable[[Mapping[str, str]], tuple[Fit, ...]]
    options: tuple[str, ...] = ()


def hard_pseudolabels(inputs: RoundInputs) -> Array:
    """The teacher's most probable class of each row ``[n]``; ties go to the lower class."""
    return jnp.argmax(inputs.teacher_probabilities, axis=-1).astype(jnp.int32)


def soft_pseudolabels(inputs: RoundInputs) -> Array:
    """The teacher's probabilities ``[n, c]``."""
    return inputs.teacher_probabilities
