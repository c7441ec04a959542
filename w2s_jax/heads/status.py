"""How the fit of a head ended."""

RUNNING = -1
CONVERGED, MAX_ITERATIONS, STALLED, CONSTANT = 0, 1, 2, 3
ABSENT_CLASS, NO_WEIGHT, MINIMUM_NORM, NO_MINIMUM = 4, 5, 6, 7
TRAINED, EARLY_STOPPED, DIVERGED = 8, 9, 10
STATUS_NAMES = {
    CONVERGED: "converged",
    MAX_ITERATIONS: "max_iterations",
    STALLED: "stalled",
    CONSTANT: "constant",
    ABSENT_CLASS: "absent_class",
    NO_WEIGHT: "no_weight",
    MINIMUM_NORM: "minimum_norm",
    NO_MINIMUM: "no_minimum",
    TRAINED: "trained",
    EARLY_STOPPED: "early_stopped",
    DIVERGED: "diverged",
}
