"""Methods whose rounds hand on more than one head, against loops on scipy and numpy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from tests.methods.slow import (
    Head,
    cross_entropy,
    fit,
    generalized_cross_entropy,
    hardened,
    objective,
    scaled,
)
from tests.toy import toy_set
from w2s_jax.errors import GridError, HeadError
from w2s_jax.features import make_predictions
from w2s_jax.heads import prepare
from w2s_jax.methods import METHODS, Fit, Method, RoundInputs
from w2s_jax.methods.ensemble import NUM_MEMBERS, bootstrap_counts
from w2s_jax.methods.forgetting import forgetting_time, is_pseudolabel
from w2s_jax.methods.rounds import hard_pseudolabels, soft_pseudolabels
from w2s_jax.pipeline import Request, StudentStage
from w2s_jax.sweep import Grid, plan_grid, resolve_pairs, run
from w2s_jax.sweep.chunks import draw_request

DRAW = {"eta_l": 0.2, "eta_u": 0.4, "n_labelled": 60, "n_unlabelled": 120, "seeds": 3}
TEACHER_L2, STUDENT_L2, RETRAIN_L2, KEPT, GCE_Q = 0.05, 0.02, 0.1, 0.4, 0.6
NUM_STEPS, LEARNING_RATE = 40, 0.5
NAMES = ("teacher_ensemble", "co_training", "enhanced_forgetting")


class Chain(NamedTuple):
    """A draw in both views, and the rows of a grid on it."""

    weak: np.ndarray
    strong: np.ndarray
    data: object
    draw: object
    rows: object

    @property
    def num_classes(self):
        return self.data.student.num_classes

    @property
    def labelled(self):
        """In the order of the pair's rows."""
        return np.sort(self.draw.labelled)

    @property
    def targets(self):
        return np.eye(self.num_classes)[self.data.labels]

    def teacher(self):
        own = self.labelled
        return fit(self.weak[own], cross_entropy(self.targets[own]), TEACHER_L2, self.num_classes)

    def row(self, **settings):
        rows = self.rows
        for name, value in settings.items():
            rows = rows[rows[name] == value]
        assert len(rows) == 1
        return rows.iloc[0]

    def assert_is(self, row, head, kept):
        """A result row's student is the head, fitted to these unlabelled rows."""
        assert row["student_objective"] == pytest.approx(head.objective, rel=1e-6)
        test = self.data.test_rows
        right = head(self.strong[test]).argmax(axis=1) == self.data.labels[test]
        assert abs(row["student_accuracy"] - right.mean()) * len(right) < 1 + 1e-9
        assert row["kept_count"] == len(kept)
        assert row["kept_minority_fraction"] == pytest.approx(self.data.minority[kept].mean())


@pytest.fixture(scope="module", params=[2, 3], ids=["2 classes", "3 classes"])
def chain(request):
    sets = tuple(
        toy_set(name, num_classes=request.param, rows_per_cell=100, signal=signal, seed=seed)
        for name, signal, seed in (("weak", 0.5, 1), ("strong", 0.9, 2))
    )
    pairs = resolve_pairs([sets])
    grid = Grid(
        pairs=(sets,),
        methods=NAMES,
        pseudolabels=("hard", "soft"),
        teacher_l2=TEACHER_L2,
        student_l2=STUDENT_L2,
        retrain_l2=RETRAIN_L2,
        keep_fraction=KEPT,
        gce_q=GCE_Q,
        num_steps=NUM_STEPS,
        learning_rate=LEARNING_RATE,
        optimizer="sgd",
        **DRAW,
    )
    with jax.enable_x64(True):
        rows = run(grid, pairs=pairs, dtype=np.float64)
    (pair,) = pairs.values()
    config = plan_grid(grid, pairs).groups[0].chunks[0].configs[0]
    data = pair.data
    return Chain(
        scaled(data.teacher.features[data.teacher_index], data.pool_rows),
        scaled(data.student.features[data.student_index], data.pool_rows),
        data,
        pair.pool("equal").draw(DRAW["seeds"], draw_request(config)),
        rows,
    )


def drawn(seed, member, num_rows):
    """A bootstrap resample by JAX's generator, one row after another."""
    key = jax.random.key(seed)
    for word in (0, member):  # a seed below 2^32 has a zero upper word
        key = jax.random.fold_in(key, word)
    numbers = [int(jax.random.bits(jax.random.fold_in(key, i))) for i in range(num_rows)]
    return np.array(numbers) % num_rows


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_teacher_ensemble(chain, kind):
    rows, own, mean = chain.draw.unlabelled, chain.labelled, 0.0
    for member in range(NUM_MEMBERS):
        sample = own[drawn(DRAW["seeds"], member, len(own))]
        loss = cross_entropy(chain.targets[sample])
        head = fit(chain.weak[sample], loss, TEACHER_L2, chain.num_classes)
        mean = mean + softmax(head(chain.weak[rows]), axis=1) / NUM_MEMBERS
    assert (mean.argmax(axis=1) != chain.teacher()(chain.weak[rows]).argmax(axis=1)).any()
    labels = hardened(mean) if kind == "hard" else mean
    head = fit(chain.strong[rows], cross_entropy(labels), STUDENT_L2, chain.num_classes)
    chain.assert_is(chain.row(method="teacher_ensemble", pseudolabels=kind), head, rows)


def test_resamples_have_as_many_rows_and_differ():
    @jax.jit
    def of_inputs(inputs):
        return bootstrap_counts(inputs)

    def counts(member, labelled, seed=5):
        hyperparameters = {"seed": jnp.array([seed, 0], jnp.uint32), "member": jnp.int32(member)}
        size = len(labelled)
        inputs = RoundInputs(
            jnp.ones((size, 2)) / 2,
            jnp.zeros((1, size)),
            jnp.ones(size, bool),
            hyperparameters,
            labelled=jnp.asarray(labelled),
        )
        return np.asarray(of_inputs(inputs))

    labelled = np.arange(300) % 3 == 1
    found = [counts(m, labelled) for m in range(50)]
    assert all(c.sum() == 100 and not c[~labelled].any() for c in found)
    assert len({c.tobytes() for c in found}) == 50
    assert not np.array_equal(found[0], counts(0, labelled, seed=6))
    # Whatever other rows there are.
    np.testing.assert_array_equal(counts(7, np.ones(100, bool)), found[7][labelled])
    # Counts are binomial(100, 1/100): in the mean over rows and members a share of .99^100 is 0.
    share = np.mean([c[labelled] == 0 for c in found])
    assert share == pytest.approx(0.99**100, abs=0.03)


def confident(p, num_kept):
    """The rows of lowest entropy of each predicted class, in proportion to its rows."""
    labels, entropy = p.argmax(axis=1), -np.sum(p * np.log(p), axis=1)
    ends = np.floor(np.cumsum(np.bincount(labels, minlength=p.shape[1])) / len(p) * num_kept + 0.5)
    kept = []
    for c, count in enumerate(np.diff(ends, prepend=0).astype(int)):
        mine = np.flatnonzero(labels == c)
        kept.extend(mine[np.argsort(entropy[mine], kind="stable")[:count]])
    assert len(kept) == num_kept
    return np.sort(kept), labels


def test_co_training(chain):
    rows, own = chain.draw.unlabelled, chain.labelled
    eye, k = np.eye(chain.num_classes), chain.num_classes
    head, view = chain.teacher(), chain.weak
    learned = [chain.strong, chain.weak, chain.strong, chain.weak, chain.strong]
    for x in learned:
        kept, labels = confident(softmax(head(view[rows]), axis=1), 48)
        both = np.concatenate([own, rows[kept]])
        loss = cross_entropy(np.concatenate([chain.targets[own], eye[labels[kept]]]))
        head = fit(x[both], loss, TEACHER_L2 if x is chain.weak else STUDENT_L2, k)
        view = x
    row = chain.rows[chain.rows["method"] == "co_training"]
    assert len(row) == 1  # it has no options
    chain.assert_is(row.iloc[0], head, rows[kept])


def forgetting_times(x, teacher, kind, first, num_classes):
    """Of the rows of one half, by a loop that looks at every checkpoint."""
    labels = hardened(teacher) if kind == "hard" else teacher
    head = fit(x[first], cross_entropy(labels[first]), STUDENT_L2, num_classes)
    k = head.w.shape[1]
    theta, second = np.append(head.w.ravel(), head.b), cross_entropy(labels[~first])
    history = []
    for step in range(NUM_STEPS + 1):
        if step:
            slope = objective(theta, x[~first], second, STUDENT_L2, None, k)[1]
            theta = theta - LEARNING_RATE * slope
        now = Head(theta[:-k].reshape(-1, k), theta[-k:], np.nan)
        history.append(now(x[first]).argmax(axis=1) == teacher[first].argmax(axis=1))
    times = []
    for right in np.array(history).T:
        time = len(right)
        while time > 0 and not right[time - 1]:
            time -= 1
        times.append(time)
    return np.array(times)


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_second_split_forgetting(chain, kind):
    rows = chain.draw.unlabelled
    x, teacher = chain.strong[rows], softmax(chain.teacher()(chain.weak[rows]), axis=1)
    times, even = np.zeros(len(rows), int), np.arange(len(rows)) % 2 == 0
    for first in (even, ~even):
        times[first] = forgetting_times(x, teacher, kind, first, chain.num_classes)
    # Some are never learned, some forgotten on the way, some never.
    assert {0, NUM_STEPS + 1} < set(times)
    kept = np.argsort(-times, kind="stable")[:48]
    labels = hardened(teacher) if kind == "hard" else teacher
    loss = generalized_cross_entropy(labels[kept], GCE_Q)
    head = fit(x[kept], loss, RETRAIN_L2, chain.num_classes)
    chain.assert_is(chain.row(method="enhanced_forgetting", pseudolabels=kind), head, rows[kept])


def test_forgetting_times_are_those_of_the_member_that_had_the_row_first(chain):
    rows = chain.draw.unlabelled
    x, teacher = chain.strong[rows], softmax(chain.teacher()(chain.weak[rows]), axis=1)
    x = x - x.mean(axis=0)  # as `prepare` has it, for steps depend on where zero is
    seen = {}

    def look(inputs):
        jax.debug.callback(lambda t: seen.update(times=np.asarray(t)), forgetting_time(inputs))
        return hard_pseudolabels(inputs)

    options = {"pseudolabels": "hard", "optimizer": "sgd"}
    first_two = METHODS["enhanced_forgetting"].rounds(options)[:2]
    method = Method("look", lambda _: (*first_two, Fit(targets=look)))
    values = {
        "student_l2": STUDENT_L2,
        "num_steps": NUM_STEPS,
        "learning_rate": LEARNING_RATE,
    }
    with jax.enable_x64(True):
        stage = StudentStage(prepare(x, dtype=np.float64), np.arange(len(x)), teacher[None])
        hyperparameters = {name: np.array([float(value)]) for name, value in values.items()}
        stage.train([Request(method, options, np.array([0]), hyperparameters)])
        jax.effects_barrier()
    for first in (np.arange(len(x)) % 2 == 0, np.arange(len(x)) % 2 == 1):
        expected = forgetting_times(x, teacher, "hard", first, chain.num_classes)
        assert np.array_equal(seen["times"][: len(x)][first], expected)


def test_holding_is_the_teachers_class():
    teacher = jnp.array([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])
    inputs = RoundInputs(teacher, jnp.zeros((1, 3)), jnp.ones(3, bool), {})
    found = is_pseudolabel(jnp.array([[1.0, 1.0, -1.0]]), inputs, jnp.int32(0))
    assert found.tolist() == [True, False, True]


def test_members_are_averaged_as_probabilities():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 5))

    def of_member(inputs):
        p = inputs.teacher_probabilities  # with padding
        return p.at[:40].set(jnp.roll(p[:40], inputs.hyperparameters["member"], axis=0))

    for num_classes in (2, 3):
        teacher = rng.dirichlet(np.ones(num_classes), size=40)
        mean = 0.0
        for member in range(3):
            head = fit(x, cross_entropy(np.roll(teacher, member, axis=0)), 0.1, num_classes)
            mean = mean + softmax(head(x), axis=1) / 3
        expected = fit(x, cross_entropy(mean), 0.1, num_classes)

        def targets(inputs, k=num_classes):
            z = inputs.logits
            if k == 2:
                z = jnp.concatenate([jnp.zeros_like(z), z])
            return jax.nn.softmax(z.T, axis=1)

        rounds = Fit(targets=of_member, members=3), Fit(targets=targets)
        method = Method("mean", lambda _, rounds=rounds: rounds)
        with jax.enable_x64(True):
            stage = StudentStage(prepare(x, dtype=np.float64), np.arange(40), teacher[None])
            request = Request(method, {}, np.array([0]), {"student_l2": np.array([0.1])})
            (trained,) = stage.train([request])
        assert stage.num_fitted == 4
        assert trained.heads.objective[0] == pytest.approx(expected.objective, rel=1e-6)


ON_TEACHER = Fit(targets=soft_pseudolabels, on_teacher_features=True)
PLAIN = Fit(targets=soft_pseudolabels)
WARM = Fit(targets=soft_pseudolabels, warm_start=True)


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        ((PLAIN, ON_TEACHER), "ends with a round on the teacher's features"),
        ((Fit(targets=soft_pseudolabels, members=2),), "of several members; end with one student"),
        ((ON_TEACHER, WARM), "warm-starts a round from one on other features"),
        ((Fit(targets=soft_pseudolabels, members=2), WARM), "or of other members"),
    ],
)
def test_rounds_that_cannot_follow_one_another_are_refused(rounds, message):
    with pytest.raises(HeadError, match=message):
        Method("odd", lambda _: rounds).checked_rounds({})


def test_a_round_has_rows():
    with pytest.raises(HeadError, match="no rows; set on_labelled or on_unlabelled"):
        Fit(targets=soft_pseudolabels, on_unlabelled=False)


def test_a_round_on_teacher_features_needs_them():
    stage = StudentStage(
        prepare(np.random.default_rng(0).standard_normal((20, 3))),
        np.arange(10),
        np.full((1, 10, 2), 0.5),
    )
    method = Method("both", lambda _: (ON_TEACHER, PLAIN))
    request = Request(method, {}, np.array([0]), {"student_l2": np.array([0.1])})
    with pytest.raises(HeadError, match="this stage was given none; pass teacher_prepared"):
        stage.train([request])


def test_a_teacher_from_elsewhere_has_no_features(monkeypatch):
    monkeypatch.setitem(METHODS, "both", Method("both", lambda _: (ON_TEACHER, PLAIN)))
    strong = toy_set("strong", seed=2)
    p = np.full((len(strong.ids), 2), 0.5)
    teacher = make_predictions(strong.ids, probabilities=p, name="elsewhere")
    grid = Grid(pairs=((teacher, strong),), methods="both", eta_u=0.4, n_unlabelled=50, seeds=0)
    with pytest.raises(GridError, match="'both' trains on the teacher's features"):
        run(grid)
