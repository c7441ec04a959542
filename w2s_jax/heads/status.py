"""How the fit of a head ended."""

RUNNING = -1
CONVERGED, MAX_ITERATIONS, STALLED, CONSTANT, ABSENT_CLASS, NO_WEIGHT, MINIMUM_NORM = range(7)
STATUS_NAMES = {
    CONVERGED: "converged",
    MAX_ITERATIONS: "max_iterations",
    STALLED: "stalled",
    CONSTANT: "constant",
    ABSENT_CLASS: "absent_class",
    NO_WEIGHT: "no_weight",
    MINIMUM_NORM: "minimum_norm",
}
