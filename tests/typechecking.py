"""The type checker that the test run wraps around every annotated function of the package."""

from beartype import BeartypeConf, beartype

# An int is a float where numbers are meant (PEP 484).
checker = beartype(conf=BeartypeConf(is_pep484_tower=True))
