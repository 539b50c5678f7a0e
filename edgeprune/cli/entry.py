"""What every command shares at its ends: errors as sentences, exit codes, interruptions.

Exit codes: 0 done, 1 a gate or target failed, 2 bad input, 130 interrupted.
"""

import errno
import os
import sys

import typer

from edgeprune.cli.commands import app
from edgeprune.errors import EdgepruneError, InputError, MissingExtraError

_INTERRUPTED = 130
_READER_GONE = 141
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def main() -> None:
    """Run the command line; exit codes: 0 done, 1 a gate or target failed, 2 bad input, 130 interrupted."""
    # How long OpenMP's threads spin before they sleep, read when torch is loaded. With libgomp's default of 300,000
    # rounds, a second busy process on 2 cores made an epoch of recovery take 12 to 84 s instead of 4; with 30,000 it is
    # 4.4 s either way (NOTES.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")
    try:
        _run(sys.argv[1:] or ["--help"])
    except EdgepruneError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("edgeprune"):
            raise
        _fail(MissingExtraError(f"edgeprune {sys.argv[1]}", "prune", (error.name or "").partition(".")[0]))
    except KeyboardInterrupt:
        typer.echo("edgeprune: interrupted; what is finished stays, the same command goes on from there.", err=True)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:
        # Somebody closed the other end (`edgeprune list | head -1`). That is no failure, nor did the command end
        # well: a verdict that nobody read must not come out as 0. So it ends as other programs do there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(_READER_GONE)
    except OSError as error:
        _fail(_explain(error))


def _run(arguments: list[str]) -> None:
    # Of many processes each would write the same files.
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and arguments[0] not in {"train", "prune"}:
        raise InputError(
            f"Several processes share `train` and `prune` only, not `{arguments[0]}`.",
            "the same command without torchrun",
        )
    # Not `app()`, which answers an interruption by returning and a closed pipe by exit code 1.
    command = typer.main.get_command(app)
    try:
        with command.make_context("edgeprune", arguments) as context:
            command.invoke(context)
    except typer.Exit:
        pass  # --help and --version end here
    except typer.TyperException as error:
        where = getattr(error, "ctx", None)  # only a wrong use of a command names it
        raise InputError(
            " ".join(error.format_message().split()).rstrip(".") + ".",
            f"{where.command_path if where else 'edgeprune'} --help",
        ) from None
    sys.stdout.flush()


def _explain(error: OSError) -> EdgepruneError:
    reason = error.strerror or str(error)
    if error.errno in _NO_ROOM:
        return EdgepruneError(
            f"{error.filename or 'A file'} could not be written: {reason}; it was left as it was.",
            "free some space there; the same command goes on from what is finished",
        )
    return InputError(
        f"{error.filename or 'A file'} cannot be used: {reason}.",
        "check that path, what lies there and who may write it",
    )


def _fail(error: EdgepruneError) -> None:
    typer.echo(f"edgeprune: {error}", err=True)
    sys.exit(error.exit_code)
