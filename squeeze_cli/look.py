"""Commands that change nothing: inspect, methods, profile, eval."""

import json

import click

from squeeze_cli.given import Source
from squeeze_cli.options import takes_model

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.command()
@takes_model
@click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave layers of this name alone, e.g. 'layer1.*'.")
@click.option("--kse", is_flag=True, help="Show how KSE judges the kernels of each convolution, at G=4 and T=0.")
@json_option
def inspect(source: Source, ignore: tuple[str, ...], kse: bool, as_json: bool) -> None:
    """Show what can be removed from MODEL, what can not, and why.

    A group is what must go together: one unit of it is a channel, neuron or head, in all the tensors that have it.
    With --kse: how the kernels of each convolution can be clustered.

    \b
    Examples:
      squeeze inspect model.pt
      squeeze inspect model.pt --kse
      squeeze inspect vit.safetensors --arch timm:vit_tiny_patch16_224 --input-shape 3,224,224 --ignore head
    """
    import squeeze
    from squeeze.progress import say
    from squeeze_cli import tables
    from squeeze_cli.opening import opened

    target = opened(source)
    structure = squeeze.trace(target.model, target.task.example_inputs, tell=say)
    if kse:
        found = squeeze.KSE(ignore=ignore).overview(target.model, structure)
        if as_json:
            click.echo(json.dumps(found, indent=1))
        else:
            tables.show(*tables.kernels_tables(found))
        return
    structure = structure.ignoring(ignore) if ignore else structure
    if as_json:
        click.echo(json.dumps(tables.structure_dict(structure), indent=1))
    else:
        tables.show(*tables.structure_tables(structure))


@click.command()
@json_option
def methods(as_json: bool) -> None:
    """List the passes that are installed, with their settings.

    They are ours and third parties'. The last table is of fine-tuning, which follows every pass.

    \b
    Example:
      squeeze methods
    """
    from squeeze_cli import tables
    from squeeze_cli.settings import find_pass, installed

    passes = {name: find_pass(name) for name in installed()}
    if as_json:
        click.echo(json.dumps(tables.methods_dict(passes), indent=1))
    else:
        tables.show(*tables.methods_tables(passes))


@click.command()
@takes_model
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Batch size for the latency.")
@click.option("--no-latency", is_flag=True, help="Count only; do not measure.")
@json_option
def profile(source: Source, batch: int, no_latency: bool, as_json: bool) -> None:
    """Show MACs, parameters and bytes by layer, and measured latency.

    One multiply-accumulate is one MAC, or two FLOPs. Layers with clustered kernels or gates are computed in the way
    that was measured to be the fastest; with the latency comes which.
    Of a network with gates, what single inputs of its data cost is shown, too.

    \b
    Examples:
      squeeze profile model.pt
      squeeze profile runs/demo/model.safetensors --threads 1 --json
    """
    import squeeze
    from squeeze.latency import ways
    from squeeze.parity import with_batch
    from squeeze_cli import tables
    from squeeze_cli.opening import opened, spent

    target = opened(source)
    counted = squeeze.profile(target.model, target.task.example_inputs)
    inputs = with_batch(target.task.example_inputs, batch)
    timed = None if no_latency else squeeze.latency(target.model, inputs)
    chosen = {} if no_latency else ways(target.model, inputs)
    costs = spent(target)
    if as_json:
        click.echo(json.dumps(tables.profile_dict(counted, timed, chosen, costs), indent=1))
    else:
        tables.show(*tables.profile_tables(counted, timed, chosen, costs))


@click.command("eval")
@takes_model
@json_option
def evaluate(source: Source, as_json: bool) -> None:
    """Judge MODEL on the test set of its data.

    \b
    Examples:
      squeeze eval model.pt
      squeeze eval resnet20.pt --arch examples/classifiers/model.py:resnet20 --data cifar10:data
    """
    from squeeze_cli.opening import opened, tested

    metrics = tested(opened(source))
    if as_json:
        click.echo(json.dumps(metrics, indent=1))
    else:
        click.echo("\n".join(f"{name} {value:.4g}" for name, value in metrics.items()))
