"""w2s_jax: thousands of linear-probe heads in parallel for weak-to-strong generalization."""

from w2s_jax.version import __version__ as __version__
