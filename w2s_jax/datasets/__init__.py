"""Where samples come from: one benchmark a file, built as TFDS builders without TensorFlow."""

from w2s_jax.datasets.archives import DatasetError
from w2s_jax.datasets.images import ImageBenchmark
from w2s_jax.datasets.opening import (
    benchmark_names,
    benchmark_options,
    open_benchmark,
    open_prepared,
)
from w2s_jax.datasets.source import ImageSource

__all__ = [
    "DatasetError",
    "ImageBenchmark",
    "ImageSource",
    "benchmark_names",
    "benchmark_options",
    "open_benchmark",
    "open_prepared",
]
