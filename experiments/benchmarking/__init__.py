"""The benchmark behind ``experiments/benchmark.py``: data, solvers, measurement, table.

`data` and `chains` write a problem into a folder; `worker` is a process that holds one solver and
one problem; `measure` lets all workers of a case take turns; `objective` judges their solutions in
float64; `table` renders the result. Solvers: `engine` (w2s_jax), and its peers in `sklearn_peer`,
`torch_peer`, `optax_peer`, `ridge_peers` and `gemm`. `images` measures how features
are extracted in the same way: `images_engine` beside `images_torch`.
"""
