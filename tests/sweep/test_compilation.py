from tests.toy import toy_set
from w2s_jax.sweep import Grid, run

FIRST = {
    "eta_l": 0.1,
    "eta_u": (0.2, 0.4),
    "n_labelled": 70,
    "n_unlabelled": 140,
    "n_validation": 20,
    "teacher_l2": (0.01, 0.1),
    "student_l2": (0.05, 0.5),
    "keep_fraction": (0.3, 0.6),
    "gce_q": (0.4, 0.7),
    "seeds": (0, 1),
}
OTHER = {
    "eta_l": 0.3,
    "eta_u": (0.1, 0.5),
    "n_labelled": 75,
    "n_unlabelled": 150,
    "teacher_l2": (0.003, 0.3),
    "student_l2": (0.02, 2.0),
    "keep_fraction": (0.45, 0.9),
    "gce_q": (0.1, 1.0),
    "seeds": (5, 6),
}


def test_another_grid_of_the_same_shape_compiles_nothing(count_compilations):
    sets = tuple(toy_set(name, rows_per_cell=200, seed=i) for i, name in enumerate("ab"))
    run(Grid(pairs=(sets,), **FIRST))
    assert count_compilations
    count_compilations.clear()
    for name, values in OTHER.items():
        rows = run(Grid(pairs=(sets,), **{**FIRST, name: values}))
        assert len(rows) == 2 * 2 * 2 * 2 * (1 + 4)
        assert not count_compilations, (name, count_compilations)
