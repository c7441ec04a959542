"""Errors a user can cause; each says what was wrong, what was found and what to do."""

import logging
import sys
from collections.abc import Callable


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


class Interrupted(W2SError):
    """A signal ended a run between two commits.

    Attributes:
        exit_code: 128 + the signal's number, as shells have it.
    """

    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


def script(main: Callable[[], None]) -> Callable[[list[str]], None]:
    """Makes a script's ``main`` ready for ``absl.app.run``: bad input ends in one line, exit 2.

    Args:
        main: takes nothing; its settings are flags.
    """

    def run(argv: list[str]) -> None:
        # JAX tells every start that there is no TPU.
        logging.getLogger("jax._src.xla_bridge").setLevel(logging.WARNING)
        try:
            if len(argv) > 1:
                raise W2SError(f"unexpected argument {argv[1]!r}; settings are flags --name=value")
            main()
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; rows committed so far stay, the same command goes on\n")
            sys.exit(130)
        except Interrupted as stop:
            sys.stderr.write(f"{stop}\n")
            sys.exit(stop.exit_code)
        except W2SError as error:
            sys.stderr.write(f"error: {error}\n")
            sys.exit(2)

    return run
