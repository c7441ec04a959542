"""Errors a user can cause; each says what was wrong, what was found and what to do."""


class W2SError(ValueError):
    """Base of every error that bad input causes; scripts print it in one line and exit with 2."""


class FeatureError(W2SError):
    """A feature file, cache or pair of feature sets cannot be used."""


class DrawError(W2SError):
    """A requested draw of rows does not exist in the pool."""


class HeadError(W2SError):
    """The inputs of a head fit are inconsistent."""


class GridError(W2SError):
    """A grid, flag value or method name is invalid."""


class StoreError(W2SError):
    """A result store cannot be read, written or continued."""
