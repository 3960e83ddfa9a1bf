"""Commands that write files: export, report, demo."""

from pathlib import Path

import click

from squeeze_cli.given import Source
from squeeze_cli.options import force_option, quiet_option, takes_model


@click.command()
@takes_model
@click.argument("out", type=click.Path(path_type=Path))
@force_option
@quiet_option
def export(source: Source, out: Path, force: bool, quiet: bool) -> None:
    """Write MODEL as OUT: ONNX (.onnx) or torch.export (.pt2).

    The file is run beside PyTorch before it is kept: where the two disagree there is an error, and no file.

    \b
    Examples:
      squeeze export runs/demo/model.safetensors small.onnx
      squeeze export resnet.pth resnet.pt2 --arch torchvision:resnet18 --input-shape 3,224,224
    """
    from squeeze_cli.opening import exported

    exported(source, out, force)
    if not quiet:
        click.echo(out)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@quiet_option
def report(run: Path, quiet: bool) -> None:
    """Write report.html of a run again, from its report.json.

    \b
    Example:
      squeeze report runs/demo
    """
    from squeeze_cli.opening import rewritten_report

    page = rewritten_report(run)
    if not quiet:
        click.echo(page)


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("model.pt"), show_default=True, help="The file.")
@force_option
@quiet_option
def demo(out: Path, force: bool, quiet: bool) -> None:
    """Train a small net on scikit-learn's digits.

    The file names its network and its data, so that the other commands need no more than the file.

    \b
    Examples:
      squeeze demo
      squeeze prune --method gal model.pt
    """
    from squeeze.demo import train_demo
    from squeeze_cli.opening import check_free

    check_free(out, force)
    metrics = train_demo(out, quiet)
    if not quiet:
        told = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        click.echo(f"{out} ({told}); next: squeeze prune --method gal {out}")
