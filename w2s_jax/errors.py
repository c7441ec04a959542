"""Errors a user can cause; each says what was wrong, what was found and what to do."""

import logging
import os
import re
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

WORKER = "w2s_jax worker"  # name of threads that compute pieces of a run


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


def run_script(main: Callable[[], None]) -> None:
    """Runs a script whose settings are absl flags; whatever is wrong with them is told in one line.

    Args:
        main: as of `script`.
    """
    from absl import app

    try:
        try:
            app.run(script(main), flags_parser=_parse_flags)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has gone away, as head does; what is still to be written goes
        # nowhere, and the exit code is the shell's for this.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere, stream.fileno())
        _leave(141)


def _parse_flags(argv: list[str]) -> list[str]:
    from absl import flags

    try:
        return flags.FLAGS(argv)
    except (flags.Error, ValueError) as error:
        sys.stderr.write(f"error: {_flag_message(str(error))} (--help lists the flags)\n")
        sys.exit(2)


def _flag_message(text: str) -> str:
    """What absl says of a flag, in one line.

    >>> _flag_message("Unknown command line flag 'ou'. Did you mean: out, pool ?")
    'unknown flag --ou; did you mean --out or --pool?'
    >>> _flag_message("flag --out=None: Flag --out must have a value other than None.")
    '--out is missing; give --out=...'
    >>> _flag_message("flag --seed=a: invalid literal for int() with base 10: 'a'")
    '--seed=a: not an integer'
    """
    if missing := re.search(r"Flag --(\w+) must have a value other than None", text):
        return f"--{missing[1]} is missing; give --{missing[1]}=..."
    if unknown := re.match(
        r"Unknown command line flag '(.*?)'(?:\. Did you mean: (.*) \?)?$", text
    ):
        close = " or ".join(f"--{name}" for name in (unknown[2] or "").split(", ") if name)
        return f"unknown flag --{unknown[1]}" + (f"; did you mean {close}?" if close else "")
    text = re.sub(r"invalid literal for int\(\).*", "not an integer", text)
    text = re.sub(r"could not convert string to float.*", "not a number", text)
    return " ".join(text.removeprefix("flag ").removeprefix("ERROR:: ").removesuffix(".").split())


def _leave(code: int) -> NoReturn:
    """Ends the process without waiting for workers that still compute.

    Python's own shutdown aborts those of them that come back from XLA.
    """
    if any(thread.name == WORKER for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


def script(main: Callable[[], None]) -> Callable[[list[str]], None]:
    """Makes a script's ``main`` ready for `run_script`: bad input ends in one line, exit 2.

    Args:
        main: takes nothing; its settings are flags.
    """

    def run(argv: list[str]) -> None:
        # They tell every start that there is no TPU, that fonts were listed, who joined whom.
        for name in ("jax", "jax._src.xla_bridge", "matplotlib"):
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            if len(argv) > 1:
                raise W2SError(f"unexpected argument {argv[1]!r}; settings are flags --name=value")
            main()
        except KeyboardInterrupt:
            sys.stderr.write("interrupted; what is committed stays, the same command goes on\n")
            _leave(130)
        except Interrupted as stop:
            sys.stderr.write(f"{stop}\n")
            _leave(stop.exit_code)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = f"{error.filename}: " if error.filename is not None else ""
            sys.stderr.write(f"error: {where}{error.strerror or error}\n")
            _leave(2)
        except W2SError as error:
            sys.stderr.write(f"error: {error}\n")
            _leave(2)

    return run
