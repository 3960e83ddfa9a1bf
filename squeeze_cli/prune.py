"""The command prune: from a model to a folder with a smaller one."""

from pathlib import Path
from typing import Any

import click

from squeeze_cli.given import ON_INTERRUPT, Method, Source, Target
from squeeze_cli.options import force_option, gathered, quiet_option, takes_model


def _method_options(command: Any) -> Any:
    return gathered(
        Method,
        "method",
        click.option("--method", required=True, metavar="NAME", help="A pass (see squeeze methods), or file.py:Pass."),
        click.option("--macs", "--flops", type=float, metavar="SHARE", help="MACs that stay. [default: 0.5]"),
        click.option("--params", type=float, metavar="SHARE", help="Parameters that stay, instead of --macs."),
        click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave layers of this name alone; repeatable."),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="FIELD=VALUE",
            help="A setting of the pass; repeatable. finetune.FIELD=VALUE sets one of fine-tuning.",
        ),
        click.option("--epochs", type=click.IntRange(0), metavar="N", help="Epochs of the pass."),
        click.option("--finetune-epochs", type=click.IntRange(0), metavar="N", help="Epochs of fine-tuning."),
    )(command)


def _target_options(command: Any) -> Any:
    return gathered(
        Target,
        "target",
        click.option(
            "--out",
            type=click.Path(path_type=Path),
            metavar="RUN",
            help="Folder of the run. [default: runs/MODEL-METHOD]",
        ),
        force_option,
        click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped."),
        click.option("--seed", type=int, default=0, show_default=True, metavar="N", help="Of every random number."),
        click.option(
            "--precision", type=click.Choice(["no", "bf16", "fp16"]), help="Mixed precision in training. [default: no]"
        ),
    )(command)


@click.command()
@takes_model
@_method_options
@_target_options
@click.option("--dry-run", is_flag=True, help="Check everything, show what could go; train nothing, write nothing.")
@quiet_option
def prune(source: Source, method: Method, target: Target, dry_run: bool, quiet: bool) -> None:
    """Make MODEL smaller, and write it with a report to a folder.

    The folder RUN holds model.safetensors, model.onnx, model.pt2, plan.json, report.json, report.html and log.

    \b
    Examples:
      squeeze prune --method gal model.pt
      squeeze prune --method gal model.pt --macs 0.4 --set structures=filters,blocks --epochs 30
      squeeze prune --method magnitude vgg.pth --arch torchvision:vgg16_bn --input-shape 3,224,224 --ignore 'head*'
      squeeze prune --method my_pass.py:MyPass model.pt --set strength=0.1
      torchrun --nproc-per-node 2 -m squeeze_cli.main prune --method gal model.pt
    """
    from squeeze.processes import is_first
    from squeeze.report import summary_table
    from squeeze_cli import tables
    from squeeze_cli.running import look_ahead, prepared, pruned

    job = prepared(source, method, target, quiet)
    if dry_run:
        structure = look_ahead(job)
        if not is_first():
            return
        tables.show(*tables.structure_tables(structure), tables.plan_line(job.chosen, job.folder))
        return
    again = "--resume in place of --force" if target.force else "--resume"
    click.get_current_context().meta[ON_INTERRUPT] = f"; run the same command with {again} to go on where it stopped"
    result = pruned(job)
    if not quiet and is_first():
        tables.show(summary_table(result.report))
        for what, name in (("model", "model.safetensors"), ("ONNX", "model.onnx"), ("report", "report.html")):
            click.echo(f"{what:<7} {job.folder / name}")
