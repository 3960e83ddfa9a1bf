"""The argument MODEL and the options that several commands share."""

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from squeeze_cli.given import Source

Command = TypeVar("Command", bound=Callable[..., Any])


def takes_model(command: Command) -> Command:
    """Give a command the argument MODEL and its options; they arrive as ``source``."""
    return gathered(
        Source,
        "source",
        click.argument("model"),
        click.option(
            "--arch", metavar="NAME", help="torchvision:NAME, timm:NAME, file.py:callable or package:callable."
        ),
        click.option(
            "--data",
            metavar="NAME",
            help="digits, cifar10:DIR, cifar100:DIR, mnist:DIR, fashionmnist:DIR, imagefolder:DIR or file.py:callable.",
        ),
        click.option("--input-shape", callback=_shape, metavar="C,H,W", help="Of one sample, e.g. 3,224,224."),
        click.option("--trust-pickle", is_flag=True, help="Open pickled modules. This runs the code that they hold."),
        click.option("--threads", type=click.IntRange(1), metavar="N", help="Threads to compute with."),
    )(command)


def gathered(record: type, name: str, *options: Callable[[Any], Any]) -> Callable[[Command], Command]:
    """A decorator that adds options to a command, which arrive as one frozen record.

    Args:
        record: A dataclass with one field an option.
        name: The command's parameter for it.
        options: Of click, in the order in which `--help` lists them.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            values = {field.name: given.pop(field.name) for field in fields(record)}
            return command(**{name: record(**values)}, **given)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]  # click's options keep a callable a callable

    return decorate


def quiet_option(command: Command) -> Command:
    """The option ``--quiet``."""
    return click.option("--quiet", is_flag=True, help="Print nothing but warnings and errors.")(command)


def force_option(command: Command) -> Command:
    """The option ``--force``."""
    return click.option("--force", is_flag=True, help="Overwrite what is there.")(command)


def _shape(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.replace("x", ",").split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"must be whole numbers with commas between them, got {text!r}; write e.g. 3,224,224.")
    return tuple(int(part) for part in parts)
