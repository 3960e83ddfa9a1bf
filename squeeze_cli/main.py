"""The command `squeeze`: its subcommands, and the one place where an error becomes a line and an exit code."""

import os
import shlex
import warnings
from typing import Any, TextIO

import click

from squeeze_cli import deploy, explain, look, prune
from squeeze_cli.given import COMMAND, ON_INTERRUPT

WRONG_INPUT = 2
FAILED_CHECK = 1
INTERRUPTED = 130

EXAMPLES = """
\b
Examples:
  squeeze demo                                     a small trained net, model.pt
  squeeze inspect model.pt                         what can be removed, and what can not
  squeeze prune --method gal model.pt              half of the MACs go
  squeeze prune resnet.pth --arch torchvision:resnet50 --input-shape 3,224,224 \\
      --method magnitude --macs 0.6

\b
Shell completion: add to ~/.bashrc (for zsh and fish, write zsh_source or fish_source)
  eval "$(_SQUEEZE_COMPLETE=bash_source squeeze)"
"""


class Commands(click.Group):
    """A group of commands that reports every expected error in one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep what was typed, for the report."""
        ctx.meta[COMMAND] = shlex.join(["squeeze", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; errors of the user end in one line on stderr and an exit code."""
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (click.exceptions.Exit, click.exceptions.Abort, click.ClickException):
            raise
        except KeyboardInterrupt:
            if _speaks():
                click.echo(f"\ninterrupted{ctx.meta.get(ON_INTERRUPT, '')}", err=True)
            ctx.exit(INTERRUPTED)
        except Exception as error:
            code = _exit_code(error)
            speaks = _speaks()
            if code is None and speaks:
                raise
            if speaks:
                click.echo(f"error: {_one_line(error)}", err=True)
            ctx.exit(FAILED_CHECK if code is None else code)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="squeeze")
def cli() -> None:
    """Make a PyTorch network smaller and really faster, and prove it."""


for command in (
    prune.prune,
    look.inspect,
    look.methods,
    look.profile,
    look.evaluate,
    explain.paths,
    explain.detect,
    deploy.export,
    deploy.report,
    deploy.demo,
):
    cli.add_command(command)


def _exit_code(error: Exception) -> int | None:
    """The exit code of an expected error; None for a bug, whose traceback is wanted."""
    # Imported here: importing squeeze imports torch, and `squeeze --help` must not wait for that.
    from squeeze.errors import ExportError, ProcessError, SqueezeError, TrainingError

    if isinstance(error, ExportError | ProcessError | TrainingError):
        return FAILED_CHECK
    return WRONG_INPUT if isinstance(error, SqueezeError | OSError) else None


def _speaks() -> bool:
    """Whether it is up to this process, if there are several, to say what went wrong."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        return True
    from squeeze.processes import speaks

    return speaks()


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: must be readable and writable, got {error.strerror}; check the path and the disk."
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    from squeeze.processes import is_first

    if is_first():
        click.echo(f"warning: {' '.join(str(message).split())}", err=True)


if __name__ == "__main__":
    cli()
