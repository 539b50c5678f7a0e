"""``edgeprune verify`` and ``edgeprune pull``: for whoever gets a bundle; they work without torch and numpy."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgeprune.cli.console import open_reporter, print_json, print_verdict
from edgeprune.cli.options import JsonOption
from edgeprune.errors import GateFailedError


class Requirement(StrEnum):
    """What `verify --require` insists on."""

    manifest = "manifest"
    all = "all"


def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder of a bundle")],
    require: Annotated[
        Requirement, typer.Option(help="`all` fails when a file could not be checked for want of an extra")
    ] = Requirement.manifest,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle anywhere: every byte against its manifest, metadata, golden vectors in each runtime."""
    from edgeprune.results import Verdict
    from edgeprune.results import as_json as plain
    from edgeprune.verify.bundle import verify_bundle

    check = verify_bundle(bundle)
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "passed": check.passed,
                "complete": check.complete,
                "files": plain(check.files),
                "gates": plain(check.gates),
            }
        )
    else:
        for file in check.files:
            typer.echo(str(file))
        print_verdict(Verdict(gates=check.gates))
    if not check.passed:
        failed = [gate.name for gate in check.gates if not gate.passed]
        raise GateFailedError(f"{bundle} failed: {', '.join(failed)}.", "pull the bundle again, or export it again")
    if require is Requirement.all and not check.complete:
        unchecked = sum(file.state != "checked" for file in check.files)
        raise GateFailedError(
            f"{unchecked} files of {bundle} were not checked and --require all was given.",
            "pip install 'edgeprune[verify]', or 'edgeprune[demo]' where TFLite files are among them",
        )
    if not as_json:
        typer.echo(f"{bundle}: good")


def pull(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="a folder, or the address of a static HTTP server")],
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="the bundle; may be left out if it is the only one")
    ] = None,
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="where the bundle's folder appears")] = Path(),
    as_json: JsonOption = False,
) -> None:
    """Fetch a bundle; every byte is checked against its manifest before anything appears."""
    from edgeprune.publish.pull import pull_bundle
    from edgeprune.results import as_json as plain

    with open_reporter(quiet=as_json) as reporter, reporter.track("pulling") as progress:
        pulled = pull_bundle(source=source, name=name, to=to, say=reporter.say, progress=progress)
    if as_json:
        print_json(plain(pulled) | {"folder": str(pulled.folder)})
        return
    typer.echo(f"{pulled.folder}")
    for line in pulled.usage:
        typer.echo(line)
