"""Heads trained step by step, against plain optax loops on the features as they came."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from w2s_jax.errors import HeadError
from w2s_jax.heads import STATUS_NAMES, prepare
from w2s_jax.heads.buckets import row_bucket
from w2s_jax.heads.training import Schedule, Step, epoch_order, seed_words, train_rows
from w2s_jax.methods.gradient import GradientStep
from w2s_jax.methods.rounds import Train
from w2s_jax.methods.trained import adam, hard_loss, soft_loss

N, D = 40, 6


def problem(num_classes, n=N, seed=0):
    """Features with a mean and unequal scales, and a teacher's probabilities on them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D)) * np.geomspace(2, 0.1, D) + rng.normal(size=D)
    logits = 1.5 * x @ rng.normal(size=(D, num_classes)) + rng.normal(size=(n, num_classes))
    return x, np.exp(log_softmax(logits, axis=1))


def train(rounds, x, probabilities, num_rows=None, previous=None, **values):
    """Runs a Train round on the first rows; each value is a number or one a head."""
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    num_rows = len(x) if num_rows is None else num_rows
    heads = max(np.size(v) for v in values.values())
    values = {k: np.broadcast_to(np.asarray(v, np.float64), heads) for k, v in values.items()}
    padding = row_bucket(num_rows) - num_rows
    rows = np.pad(np.arange(num_rows, dtype=np.int32), (0, padding))
    teacher = np.pad(probabilities[:num_rows], ((0, padding), (0, 0)), constant_values=0.5)
    prepared = prepare(x, dtype=dtype)
    result = rounds.run(
        prepared,
        rows,
        num_rows,
        jnp.asarray(np.broadcast_to(teacher, (heads, *teacher.shape)), dtype),
        None if previous is None else previous[:, None],
        values,
        {name: jnp.asarray(column, dtype) for name, column in values.items()},
    )
    w = np.einsum("dr,hkr->hkd", prepared.rotation, result.params[..., :-1])
    return np.concatenate([w, result.params[..., -1:]], axis=-1), jax.device_get(result)


def reference_loss(params, x, targets, l2):
    logits = x @ params[:, :-1].T + params[:, -1]
    if len(params) == 1:
        logits = jnp.concatenate([jnp.zeros_like(logits), logits], axis=1)
    loss = -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=1))
    return loss + l2 / 2 * jnp.sum(params[:, :-1] ** 2)


def reference_loop(optimizer, x, targets, l2, batches):
    """Parameters after every step of a plain loop on centred features."""
    x = x - x.mean(axis=0)
    num_logits = targets.shape[1] if targets.shape[1] > 2 else 1
    params = jnp.zeros((num_logits, x.shape[1] + 1))
    state, path = optimizer.init(params), [params]
    gradient = jax.jit(jax.value_and_grad(reference_loss))
    for rows in batches:
        value, slope = gradient(params, x[rows], targets[rows], l2)
        rule = optax.with_extra_args_support(optimizer)
        updates, state = rule.update(slope, state, params, value=value)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return np.stack(path)


def clipped_adamw(hyperparameters):
    return optax.chain(
        optax.clip_by_global_norm(0.2), optax.adamw(hyperparameters["learning_rate"])
    )


def polyak(hyperparameters):
    return optax.polyak_sgd(max_learning_rate=hyperparameters["learning_rate"])


OPTIMIZERS = {
    adam: lambda rate: optax.adam(rate),
    clipped_adamw: lambda rate: optax.chain(optax.clip_by_global_norm(0.2), optax.adamw(rate)),
    polyak: lambda rate: optax.polyak_sgd(max_learning_rate=rate),
}


def rule(optimizer=adam, loss=hard_loss, **changes):
    return GradientStep(loss, optimizer, reads=("learning_rate",), **changes)


def one_hot(probabilities):
    return np.eye(probabilities.shape[1])[probabilities.argmax(axis=1)]


@pytest.mark.parametrize(
    ("optimizer", "loss", "num_classes"),
    [
        (adam, hard_loss, 2),
        (adam, soft_loss, 3),
        (clipped_adamw, soft_loss, 2),
        (polyak, hard_loss, 3),
    ],
)
def test_full_batches_equal_a_plain_loop(float64, optimizer, loss, num_classes):
    x, probabilities = problem(num_classes)
    rates, steps, l2 = [0.01, 0.3], [25, 12], [0.1, 0.02]
    got, result = train(
        Train(rule(optimizer, loss), "num_steps"),
        x,
        probabilities,
        learning_rate=rates,
        num_steps=steps,
        student_l2=l2,
    )
    targets = probabilities if loss is soft_loss else one_hot(probabilities)
    centred = x - x.mean(axis=0)
    for head in range(2):
        path = reference_loop(
            OPTIMIZERS[optimizer](rates[head]), x, targets, l2[head], [np.arange(N)] * steps[head]
        )
        np.testing.assert_allclose(got[head], path[-1], rtol=1e-9, atol=1e-12)
        value, slope = jax.value_and_grad(reference_loss)(path[-1], centred, targets, l2[head])
        np.testing.assert_allclose(result.objective[head], value, rtol=1e-10)
        np.testing.assert_allclose(result.gradient_norm[head], np.linalg.norm(slope), rtol=1e-8)
    assert result.iterations.tolist() == steps
    assert [STATUS_NAMES[s] for s in result.status.tolist()] == ["trained"] * 2
    assert np.isnan(result.gap).all()
    assert result.kept.sum(axis=1).tolist() == [N] * 2


def test_minibatches_equal_a_plain_loop(float64):
    x, probabilities = problem(2)
    rounds = Train(rule(), "num_steps", batch_size="batch_size")
    got, result = train(
        rounds,
        x,
        probabilities,
        learning_rate=0.1,
        num_steps=11,
        student_l2=0.1,
        batch_size=12,
        seed=2**40 + 3,
    )
    batches = []
    for epoch in range(3):
        order = np.asarray(epoch_order(seed_words(2**40 + 3), epoch, N, row_bucket(N)))[:N]
        batches += np.split(order, range(12, N, 12))
    path = reference_loop(optax.adam(0.1), x, one_hot(probabilities), 0.1, batches[:11])
    np.testing.assert_allclose(got[0], path[-1], rtol=1e-9, atol=1e-12)
    value = reference_loss(path[-1], x - x.mean(axis=0), one_hot(probabilities), 0.1)
    np.testing.assert_allclose(result.objective[0], value, rtol=1e-10)  # of all rows


@dataclasses.dataclass(frozen=True)
class Recorder(Step):
    """Writes down which rows it sees; its inputs are the rows' numbers."""

    num_steps: int

    def init(self, params, batch):
        return jnp.int32(0)

    def update(self, params, state, batch):
        seen = jnp.where(batch.valid, batch.inputs, -1)
        row = jnp.full(params.shape[1], -1).at[: len(seen)].set(seen)
        return params.at[batch.step].set(row), state + 1

    def objective(self, params, batch):
        return jnp.sum(params) * 0


def numbers_of_rows(own, index, valid):
    return own if index is None else own[index]


@pytest.mark.parametrize("num_rows", [23, 30])
def test_every_epoch_takes_every_row_once(num_rows):
    # One "logit" a step: the parameters serve as the record [h, steps, places].
    x = np.random.default_rng(0).normal(size=(64, 40))
    prepared = prepare(x)
    prepared = dataclasses.replace(prepared, rotation=jnp.eye(40))
    data = np.broadcast_to(np.arange(64), (3, 64))
    per_epoch = -(-num_rows // 8)
    steps = 2 * per_epoch

    def record(seed):
        schedule = Schedule(np.full(3, steps), num_rows, batch_size=8, seed=seed)
        start = np.zeros((3, 10, 41), np.float32)
        rows = np.arange(64, dtype=np.int32)
        result = train_rows(prepared, rows, Recorder(10), numbers_of_rows, data, schedule, start)
        return np.asarray(result.params)[:, :steps, :8].astype(int)

    seen = record(seed=5)
    assert (seen == seen[:1]).all()  # all heads see the same rows
    first, second = seen[0, :per_epoch].ravel(), seen[0, per_epoch:].ravel()
    for epoch in (first, second):
        assert sorted(epoch[epoch >= 0]) == list(range(num_rows))
        assert (epoch[:num_rows] >= 0).all()  # only the last batch is smaller
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.sort(first))
    assert np.array_equal(record(seed=5), seen)
    assert not np.array_equal(record(seed=6), seen)


def test_the_order_of_an_epoch_does_not_depend_on_padding():
    orders = [np.asarray(epoch_order(seed_words(7), 3, 23, size))[:23] for size in (23, 64)]
    np.testing.assert_array_equal(*orders)


def likes_the_teachers_class(logits, inputs, step):
    z = jnp.concatenate([jnp.zeros_like(logits), logits]) if len(logits) == 1 else logits
    return jnp.argmax(z, axis=0) == jnp.argmax(inputs.teacher_probabilities, axis=-1)


def test_checkpoints_end_with_the_head():
    """The last checkpoint at which each row held, for heads of different numbers of steps."""
    x, _ = problem(3)
    probabilities = np.random.default_rng(1).dirichlet(np.ones(3), size=N)  # nothing to be learned
    steps, every = (4, 11, 23), 3
    rounds = Train(rule(holding=likes_the_teachers_class), "num_steps", record_every=every)
    values = {"num_steps": steps, "learning_rate": 0.3, "student_l2": 0.01}
    _, found = train(rounds, x, probabilities, **values)
    path = reference_loop(
        optax.adam(0.3), x, one_hot(probabilities), 0.01, [np.arange(N)] * max(steps)
    )
    centred, labels = x - x.mean(axis=0), probabilities.argmax(axis=1)
    for head, num_steps in enumerate(steps):
        expected = np.full(N, -1)
        for checkpoint in range(num_steps // every + 1):
            params = path[checkpoint * every]
            chosen = (centred @ params[:, :-1].T + params[:, -1]).argmax(axis=1)
            expected[chosen == labels] = checkpoint
        assert np.array_equal(found.last_held[head, :N], expected)
    assert len(set(expected)) > 3  # some lose their class on the way


def test_early_stopping_keeps_the_best_parameters(float64):
    rng = np.random.default_rng(1)
    x, probabilities = problem(2, seed=3)
    flipped = rng.random(N) < 0.3
    probabilities = np.where(flipped[:, None], probabilities[:, ::-1], probabilities)
    rounds = Train(rule(l2=None), 400, patience="patience", held_out=0.25, evaluate_every=5)
    rates, patience = [0.02, 0.1, 0.1, 1e-4], [2, 1, 4, 1]
    got, result = train(rounds, x, probabilities, learning_rate=rates, patience=patience)
    targets, centred = one_hot(probabilities), x - x.mean(axis=0)
    expected = []
    for head, (rate, wait) in enumerate(zip(rates, patience, strict=True)):
        path = reference_loop(optax.adam(rate), x, targets, 0.0, [np.arange(30)] * 400)
        scores = [reference_loss(p, centred[30:], targets[30:], 0.0) for p in path[::5]]
        best, waited, stop = 0, 0, 0
        while waited < wait and stop < 80:
            stop += 1
            waited = 0 if scores[stop] < scores[best] else waited + 1
            best = best if waited else stop
        expected.append("early_stopped" if stop < 80 else "trained")
        assert result.iterations[head] == 5 * stop
        np.testing.assert_allclose(got[head], path[5 * best], rtol=1e-8, atol=1e-12)
    assert [STATUS_NAMES[s] for s in result.status.tolist()] == expected
    assert set(expected) == {"early_stopped", "trained"}
    # The rows held out are not among those trained on.
    assert (result.kept[:, :N] == (np.arange(N) < 30)).all()


def test_a_start_that_nothing_improves_on_is_kept():
    x, _ = problem(2)
    rounds = Train(rule(), 50, patience=2, evaluate_every=1)
    random = np.eye(2)[np.random.default_rng(0).integers(0, 2, N)]
    got, result = train(rounds, x, random, learning_rate=[1e3], student_l2=0.1)
    assert (got == 0).all()
    assert result.iterations.tolist() == [2]


def exact_minimum(x, targets, l2):
    centred = x - x.mean(axis=0)

    def value(theta):
        params = theta.reshape(1, -1)
        z = centred @ params[0, :-1] + params[0, -1]
        residual = 1 / (1 + np.exp(-z)) - targets[:, 1]
        loss = np.mean(np.logaddexp(0, z) - targets[:, 1] * z) + l2 / 2 * theta[:-1] @ theta[:-1]
        slope = np.append(centred.T @ residual / len(x) + l2 * theta[:-1], residual.mean())
        return loss, slope

    found = minimize(value, np.zeros(D + 1), jac=True, method="BFGS", options={"gtol": 1e-10})
    return found.fun


def test_long_training_arrives_at_the_minimum():
    x, probabilities = problem(2)
    l2 = [0.01, 0.1, 1.0]
    _, result = train(
        Train(rule(loss=soft_loss), "num_steps"),
        x,
        probabilities,
        learning_rate=0.03,
        num_steps=3000,
        student_l2=l2,
    )
    minima = [exact_minimum(x, probabilities, value) for value in l2]
    np.testing.assert_allclose(result.objective, minima, rtol=2e-5)
    assert (result.gradient_norm < 1e-2).all()


HEADS = {
    "learning_rate": np.array([0.01, 0.03, 0.1, 0.3]),
    "num_steps": np.array([20, 40, 25, 30]),
    "student_l2": np.array([0.0, 0.1, 0.01, 1.0]),
}


@pytest.mark.parametrize("extra", [{}, {"batch_size": 12, "seed": 1}, {"patience": [1, 2, 3, 1]}])
def test_a_head_does_not_depend_on_those_beside_it(extra):
    x, probabilities = problem(3)
    named = {name: name for name in extra if name != "seed"}
    rounds = Train(rule(), "num_steps", **named, evaluate_every=4)
    extra = {name: np.broadcast_to(value, 4) for name, value in extra.items()}
    together, result = train(rounds, x, probabilities, **HEADS, **extra)
    for head in range(4):
        own = {name: np.repeat(v[head], 4) for name, v in (HEADS | extra).items()}
        alone, single = train(rounds, x, probabilities, **own)
        np.testing.assert_allclose(alone[0], together[head], rtol=1e-5, atol=1e-6)
        assert single.iterations[0] == result.iterations[head]
    again, _ = train(rounds, x, probabilities, **HEADS, **extra)
    assert np.array_equal(again, together)


def test_other_numbers_compile_nothing(count_compilations):
    x, probabilities = problem(2)
    plain = Train(rule(), "num_steps", batch_size="batch_size")
    patient = Train(rule(), "num_steps", patience="patience")
    first = {"num_steps": 5, "student_l2": 0.1, "learning_rate": [0.1, 0.2]}
    train(plain, x, probabilities, **first, batch_size=0)
    train(plain, x, probabilities, **first, batch_size=9, seed=0)
    train(patient, x, probabilities, **first, patience=1)
    count_compilations.clear()
    other = {"num_steps": [7, 9], "student_l2": [0.0, 3.0], "learning_rate": [0.3, 0.01]}
    train(plain, x, probabilities, 33, **other, batch_size=0)
    train(plain, x, probabilities, 31, **other, batch_size=10, seed=9)
    train(patient, x, probabilities, 35, **other, patience=[2, 3])
    assert not count_compilations


def batched_products(jaxpr):
    """Matrix products with a batch axis, at any depth."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            if equation.params["dimension_numbers"][1][0]:
                yield equation
        for inner in jax.tree.leaves(
            equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns") or hasattr(leaf, "jaxpr")
        ):
            if hasattr(inner, "jaxpr") or hasattr(inner, "eqns"):
                yield from batched_products(getattr(inner, "jaxpr", inner))


@pytest.mark.parametrize("batch_size", [0, 12])
def test_heads_share_their_matrix_products(batch_size):
    x, probabilities = problem(3)
    rounds = Train(rule(), 5, batch_size=batch_size)
    prepared = prepare(x)

    def run(probabilities, rate):
        values = {"seed": np.zeros(4)} if batch_size else {}
        numbers = {"learning_rate": rate, "student_l2": rate}
        teacher = jnp.broadcast_to(probabilities, (4, *probabilities.shape))
        rows = np.arange(N, dtype=np.int32)
        return rounds.run(prepared, rows, N, teacher, None, values, numbers)

    jaxpr = jax.make_jaxpr(run)(jnp.asarray(probabilities, jnp.float32), jnp.ones(4))
    assert "dot_general" in str(jaxpr)
    assert not list(batched_products(jaxpr.jaxpr))


def test_heads_that_diverge_say_so_and_end_at_zero():
    x, probabilities = problem(2)
    got, result = train(
        Train(rule(lambda h: optax.sgd(h["learning_rate"])), 60),
        x,
        probabilities,
        learning_rate=[0.1, 1e4],
        student_l2=1.0,
    )
    assert [STATUS_NAMES[s] for s in result.status.tolist()] == ["trained", "diverged"]
    assert np.isfinite(got).all()
    assert (got[1] == 0).all()
    np.testing.assert_allclose(result.objective[1], np.log(2), rtol=1e-6)
    assert np.isfinite(result.gradient_norm).all()


def test_warm_starts_and_moving_targets_read_the_round_before():
    x, probabilities = problem(2)
    numbers = {"learning_rate": [0.1, 0.2], "student_l2": 0.1}
    _, first = train(Train(rule(), 30), x, probabilities, **numbers)
    cold = Train(rule(loss=own_loss), 1)
    warm = dataclasses.replace(cold, warm_start=True)
    results = [
        train(rounds, x, probabilities, previous=jnp.asarray(first.params), **numbers)[0]
        for rounds in (cold, warm)
    ]
    # Adam's first step is the learning rate in every coordinate.
    np.testing.assert_allclose(np.abs(results[0][0]), 0.1, rtol=1e-3)
    assert not np.allclose(*results)


def own_loss(logits, inputs, step):
    """Towards the previous round's own predictions."""
    return jax.nn.softplus(jnp.where(inputs.logits > 0, -1, 1) * logits)[0]


def from_the_third_step(logits, inputs, step):
    """Only even rows count, from the third step on."""
    return jnp.where(step < 2, 1.0, jnp.arange(logits.shape[1]) % 2 == 0)


def test_weights_may_move_during_the_fit(float64):
    x, probabilities = problem(2)
    numbers = {"learning_rate": 0.1, "student_l2": 0.1}
    got, result = train(Train(rule(weights=from_the_third_step), 10), x, probabilities, **numbers)
    even = np.arange(0, N, 2)
    batches = [np.arange(N)] * 2 + [even] * 8
    path = reference_loop(optax.adam(0.1), x, one_hot(probabilities), 0.1, batches)
    np.testing.assert_allclose(got[0], path[-1], rtol=1e-9)
    assert np.flatnonzero(result.kept[0]).tolist() == even.tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_steps": 0}, "num_steps must be whole numbers from 1, found 0"),
        ({"batch_size": -1}, "batch_size must be whole numbers from 0"),
        ({"patience": -2}, "patience must be"),
        ({"evaluate_every": 0}, "evaluate_every must be"),
        ({"held_out": 1.0}, r"held_out must lie in \(0, 1\), found 1.0"),
    ],
)
def test_impossible_rounds(change, message):
    with pytest.raises(HeadError, match=message):
        Train(rule(), **{"num_steps": 5, **change})


@pytest.mark.parametrize(
    ("rounds", "values", "message"),
    [
        (Train(rule(), "num_steps"), {"num_steps": [5, 0]}, "num_steps must be"),
        (Train(rule(), "num_steps"), {"num_steps": 1.5}, "found 1.5"),
        (Train(rule(), 5, batch_size=41), {"seed": 0}, "batch_size 41 exceeds the 40"),
        (Train(rule(), 5, patience=1, held_out=0.99), {}, "would hold out 40 of 40"),
    ],
)
def test_impossible_numbers(rounds, values, message):
    x, probabilities = problem(2)
    with pytest.raises(HeadError, match=message):
        train(rounds, x, probabilities, learning_rate=0.1, student_l2=0.1, **values)
