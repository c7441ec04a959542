import dataclasses

import numpy as np
import pytest

from tests.toy import toy_set
from w2s_jax.errors import DrawError, FeatureError, GridError
from w2s_jax.features import make_feature_set
from w2s_jax.sweep import Config, Grid, parse_axis, plan_grid, predict, resolve_pairs, run
from w2s_jax.sweep.chunks import Pattern, draw_request
from w2s_jax.sweep.rows import vanilla_of


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1,0.5", (0.1, 0.5)),
        ("0:0.5:11", (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5)),
        ("1e-4:1:5:log", (1e-4, 1e-3, 1e-2, 0.1, 1.0)),
        ("eta_o, 0.3", ("eta_o", 0.3)),
        ("unlabelled", ("unlabelled",)),
    ],
)
def test_axes(text, values):
    assert parse_axis(text, "eta_u") == values


@pytest.mark.parametrize(
    "text", ["", "a", "0:1", "0:1:x", "0:1:1", "0:1:3:lin", "-1:1:3:log", "1;2"]
)
def test_unreadable_axes(text):
    with pytest.raises(GridError, match="--eta_u: cannot read"):
        parse_axis(text, "eta_u")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eta_l", 1.2, r"eta_l must be a number in \[0, 1\], or eta_o; found 1.2"),
        ("eta_u", -0.1, "or eta_o or unlabelled; found -0.1"),
        ("eta_u", "half", "found 'half'"),
        ("eta_l", [[0.1]], "one value or a flat list"),
        ("n_labelled", 0, "n_labelled must be a whole number"),
        ("n_labelled", 0.0, "found 0$"),
        ("n_unlabelled", 10.5, "found 10.5"),
        ("teacher_l2", -1.0, "teacher_l2 must be"),
        ("student_l2", float("nan"), "student_l2 must be"),
        ("keep_fraction", 0.0, r"\(0, 1\]"),
        ("gce_q", 1.5, "gce_q"),
        ("seeds", -1, "seeds"),
        ("seeds", True, "found True"),
        ("n_validation", -1, "n_validation"),
        ("eta_o", 2.0, "eta_o"),
        ("methods", "vanila", "did you mean 'vanilla'"),
        ("methods", (), "methods has no values"),
        ("feature_scaling", "max", "known: rms, none, standardize"),
        ("class_prior", "uniform", "known: equal, pool"),
        ("pseudolabels", "firm", "known: hard, soft"),
        ("pairs", (), "pairs has no values"),
    ],
)
def test_impossible_values_fail_before_anything_is_loaded(field, value, message):
    with pytest.raises(GridError, match=message):
        Grid(**{"pairs": "a:b", field: value})


def test_forms_of_pairs():
    assert Grid(pairs="a:b").pairs == ("a:b",)
    assert Grid(pairs=("a", "b")).pairs == (("a", "b"),)
    assert Grid(pairs=["a:b", "c:d"]).pairs == ("a:b", "c:d")
    assert Grid(pairs=("a:b", "c:d")).pairs == ("a:b", "c:d")
    assert Grid(pairs=[("a", "b")]).pairs == (("a", "b"),)


def test_only_what_a_method_reads_is_in_its_configurations():
    grid = Grid(
        pairs="a:b",
        eta_l=0.1,
        eta_u=0.1,
        seeds=0,
        keep_fraction=(0.2, 0.5),
        gce_q=(0.5, 0.7),
        retrain_targets=("teacher", "student"),
    )
    configs = list(grid.configs({"a:b": None}))
    assert sum(c.method == "vanilla" for c in configs) == 1
    assert sum(c.method == "enhanced" for c in configs) == 8
    assert all(c.retrain_l2 == c.student_l2 for c in configs if c.method == "enhanced")


def config(**changes):
    base = Config("a:b", "vanilla", 0, 0.1, 0.3, 50, 100, 0, 0.01, 0.1)
    return dataclasses.replace(base, **changes).canonical()


def test_keys_hash_what_is_read_and_nothing_else():
    prints = {"a:b": ("t", "s"), "c:d": ("t", "s")}
    key = config().key(prints)
    assert config(gce_q=0.7, keep_fraction=0.5, retrain_init="warm").key(prints) == key
    assert config(pair="c:d").key(prints) == key  # a name is no number
    assert config().key({"a:b": ("t", "other")}) != key
    for change in ({"seed": 1}, {"student_l2": 0.2}, {"eta_u": None}, {"pseudolabels": "soft"}):
        assert config(**change).key(prints) != key
    implied = config(
        method="enhanced",
        gce_q=0.7,
        keep_fraction=0.5,
        retrain_targets="teacher",
        retrain_init="zero",
    )
    given = dataclasses.replace(implied, retrain_l2=0.1).canonical()
    assert implied.key(prints) == given.key(prints)


@pytest.fixture(scope="module")
def sets():
    return toy_set("weak", seed=1), toy_set("strong", seed=2)


def test_eta_o_is_the_benchmarks_own_fraction(sets):
    plan = plan_grid(Grid(pairs=(sets,), eta_l="eta_o", eta_u=0.5, n_labelled=50, n_unlabelled=100))
    native = sets[1].eta_o
    assert native is not None
    (found, *others) = plan.groups[0].chunks[0].configs
    assert found.eta_l == pytest.approx(native, abs=1e-12)
    # It is no short decimal; every row finds its vanilla row all the same.
    prints = {found.pair: ("t", "s")}
    keys = {c.key(prints) for c in (found, *others)}
    assert {vanilla_of(c).key(prints) for c in (found, *others)} <= keys
    given = Grid(pairs=(sets,), eta_l="eta_o", eta_o=0.2, n_labelled=50, n_unlabelled=100)
    assert plan_grid(given).groups[0].chunks[0].configs[0].eta_l == 0.2


def test_a_grid_is_planned_as_the_list_of_its_configurations_is(sets):
    grid = Grid(
        pairs=(sets, (sets[1], toy_set("third", seed=3))),
        eta_l=(0.2, "eta_o"),
        eta_u=(0.3, 0.5),
        n_labelled=(50, 40),
        n_unlabelled=100,
        feature_scaling=("rms", "none"),
        class_prior=("equal", "pool"),
        seeds=(0, 1, 5),
        methods=("enhanced", "vanilla_trained"),  # the second one reads the seed
    )
    pairs = resolve_pairs(grid.pairs)
    prints = {name: pair.fingerprints for name, pair in pairs.items()}
    plans = plan_grid(grid, pairs), plan_grid(list(grid.configs(pairs)), pairs)
    groups = [plan.groups for plan in plans]
    assert len(groups[0]) == len(groups[1]) == 2 * 2 * 2 * 3
    assert len({chunk.pattern for group in groups[0] for chunk in group.chunks}) == 2
    for own, listed in zip(*groups, strict=True):
        assert own.teachers == listed.teachers
        for chunk, other in zip(own.chunks, listed.chunks, strict=True):
            assert chunk.configs == other.configs
            assert chunk.keys(prints) == [c.key(prints) for c in other.configs]
            assert chunk.pattern.draw_requests == tuple(
                dict.fromkeys(map(draw_request, other.configs))
            )
            both = zip(chunk.requests()[0], other.requests()[0], strict=True)
            for request, expected in both:
                assert request.method == expected.method
                assert request.options == expected.options
                assert request.teacher.tolist() == expected.teacher.tolist()
                np.testing.assert_equal(request.hyperparameters, expected.hyperparameters)
    pattern = plans[0].groups[0].chunks[0].pattern
    repeated = Pattern((*pattern.configs, pattern.configs[0]))  # first appearance counts
    assert repeated.draw_requests == pattern.draw_requests
    assert plans[0].heads == plans[1].heads
    assert predict(plans[0]).flops == predict(plans[1]).flops


def test_keys_stay_what_they_are_in_stores():
    assert config().key({"a:b": ("t", "s")}) == "732d636661a5dfaa3c83961e"
    trained = config(
        method="vanilla_trained",
        optimizer="adam",
        learning_rate=0.01,
        num_steps=9,
        batch_size=0,
        patience=0,
    )
    assert trained.key({"a:b": ("t", "s")}) == "bcafe5ed9cfc9aa0dee3f6cf"


def test_a_million_configurations_are_few_patterns(sets):
    grid = Grid(
        pairs=(sets,), eta_u=(0.3, 0.4), n_labelled=40, n_unlabelled=80, seeds=range(2000),
        gce_q=np.linspace(0.01, 1, 124),
    )  # fmt: skip
    plan = plan_grid(grid)
    assert plan.num_configs == 2 * 2 * 2000 * 125 == 10**6
    assert (
        len({id(c) for g in plan.groups for chunk in g.chunks for c in chunk.pattern.configs})
        == 500
    )


def test_eta_o_must_be_given_where_there_is_none():
    with pytest.raises(GridError, match="has no natural minority fraction"):
        plan_grid(
            Grid(
                pairs="reviews_vs_tweets/minilm_embeddings:reviews_vs_tweets/minilm_last",
                eta_l="eta_o",
            )
        )


def test_infeasible_draws_fail_in_the_plan(sets):
    with pytest.raises(DrawError, match="largest n_unlabelled"):
        plan_grid(Grid(pairs=(sets,), n_labelled=50, n_unlabelled=10_000))


@pytest.mark.parametrize("entry", ["a", "a:b:c", ":b", ("a",)])
def test_what_is_no_pair(entry):
    with pytest.raises(GridError, match="a pair is teacher:student"):
        resolve_pairs([entry])


def test_two_pairs_of_one_name(sets):
    other = toy_set("weak", seed=7)
    with pytest.raises(GridError, match="two different pairs are called 'weak:strong'"):
        resolve_pairs([sets, (other, sets[1])])


def test_minority_cells_that_no_side_takes(sets):
    with pytest.raises(GridError, match="minority_cells '7:9' would change nothing"):
        resolve_pairs([sets], minority_cells="7:9")


def test_a_memory_budget_in_words(sets):
    grid = Grid(pairs=(sets,), eta_u=0.3, n_labelled=50, n_unlabelled=100)
    assert run(grid, memory_budget="1GiB")["student_accuracy"].equals(run(grid)["student_accuracy"])
    with pytest.raises(ValueError, match="memory_budget is a size such as 2GiB"):
        run(grid, memory_budget="plenty")


def test_unknown_shipped_name_lists_the_known_ones():
    with pytest.raises(ValueError, match="reviews_vs_tweets/minilm_last"):
        resolve_pairs(["reviews_vs_tweets/minilm_lst:reviews_vs_tweets/minilm_last"])


def test_the_plan_describes_itself(sets):
    plan = plan_grid(Grid(pairs=(sets,), eta_u=0.3, seeds=(0, 1), n_labelled=50, n_unlabelled=100))
    text = plan.describe()
    assert "8 configurations" in text
    assert "4 teachers, 8 students, 2 ceilings" in text


def test_sources_that_meet_fail_in_the_plan(sets):
    pair = tuple(
        make_feature_set(
            s.features,
            s.labels,
            attributes=s.attributes,
            split=s.split,
            ids=s.ids,
            # Majority and minority rows of a split share sources, as one foreground on two scenes.
            source_ids=[
                f"{sp}/{y}/{i % 140}"
                for i, (y, sp) in enumerate(zip(s.labels, s.split, strict=True))
            ],
            name=s.name,
        )
        for s in sets
    )
    plan_grid(Grid(pairs=(pair,), eta_u=0.5, n_labelled=20, n_unlabelled=60))
    with pytest.raises(DrawError, match="would serve both"):
        plan_grid(Grid(pairs=(pair,), eta_l=0.0, eta_u=1.0, n_labelled=120, n_unlabelled=150))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep_fraction": 5.0}, "keep_fraction must be"),
        ({"student_l2": -1.0}, "student_l2 must be"),
        ({"student_l2": float("inf")}, "student_l2 must be"),
        ({"seed": -1}, "seed must be"),
        ({"retrain_init": "cold"}, "unknown retrain_init 'cold'"),
        ({"pseudolabels": "x"}, "unknown pseudolabels 'x'"),
        ({"method": "enhanced"}, "needs retrain_targets"),
    ],
)
def test_configurations_are_checked_like_grids(change, message):
    with pytest.raises(GridError, match=message):
        config(**change)


def test_equal_settings_have_equal_keys():
    prints = {"a:b": ("t", "s")}
    assert config(eta_u=0.1 + 0.2).key(prints) == config(eta_u=0.3).key(prints)
    assert config(student_l2=1).key(prints) == config(student_l2=1.0).key(prints)


def test_vanilla_is_always_among_the_methods():
    grid = Grid(pairs="a:b", eta_l=0.1, eta_u=0.1, seeds=0, methods="enhanced")
    assert [c.method for c in grid.configs({"a:b": None})] == ["vanilla", "enhanced"]


@pytest.mark.parametrize("pairs", [3, [3], {"a": "b"}])
def test_what_is_no_pair_at_all(pairs):
    with pytest.raises(GridError, match="found"):
        resolve_pairs(Grid(pairs=pairs).pairs)


def test_an_empty_list_of_configurations(sets):
    with pytest.raises(GridError, match="nothing to run"):
        run([], pairs=resolve_pairs([sets]))


def test_arrays_get_their_minority_cells_and_pool_on_loading(tmp_path):
    rng = np.random.default_rng(0)
    labels, attributes = rng.integers(0, 3, 90), rng.integers(0, 2, 90)
    split = np.tile(["train", "val", "test"], 30)
    arrays = {"labels": labels, "attributes": attributes, "split": split}
    for name in ("weak", "strong"):
        x = rng.normal(size=(90, 4)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", features=x, **arrays)
    entry = f"{tmp_path}/weak.npz:{tmp_path}/strong.npz"
    with pytest.raises(FeatureError, match="minority"):
        resolve_pairs([entry])
    (pair,) = resolve_pairs([entry], minority_cells="0:1,1:0,2:0", pool="train+val").values()
    expected = np.array([[False, True], [True, False], [True, False]])[labels, attributes]
    assert pair.data.minority.sum() == expected.sum()
    assert len(pair.data.pool_rows) == 60
