"""Commands that look at gated networks: paths, detect."""

import json
from pathlib import Path

import click

from squeeze_cli.given import Guard, Look, Source
from squeeze_cli.look import json_option
from squeeze_cli.options import force_option, gathered, takes_model

out_option = click.option("--out", type=click.Path(path_type=Path), help="Folder for the files; without it, none.")


@click.command()
@takes_model
@out_option
@gathered(
    Look,
    "look",
    click.option("--sample", type=click.IntRange(0), metavar="I", help="Show the path of this input, counted from 0."),
    click.option("--most", type=click.IntRange(1), default=2000, show_default=True, help="Look at so many inputs."),
    click.option("--silence", type=click.IntRange(0), metavar="N", help="Filters of a class to silence; 0: no test."),
    click.option("--codes", type=click.Path(path_type=Path), help="A file of codes gathered before; no data is used."),
)
@force_option
@json_option
def paths(source: Source, out: Path | None, look: Look, force: bool, as_json: bool) -> None:
    """Show which filters the gates of MODEL switch on for what.

    Looks at the test data; at held-out or training data where there is none. With --out it writes codes.safetensors,
    paths.json and paths.html.

    \b
    Examples:
      squeeze paths runs/model-decouple/model.safetensors --out runs/model-decouple
      squeeze paths runs/model-decouple/model.safetensors --sample 3
    """
    from squeeze_cli import gate_tables, tables
    from squeeze_cli.explaining import looked_at

    found = looked_at(source, look, out, force)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        tables.show(*gate_tables.paths_tables(found))


@click.command()
@takes_model
@out_option
@gathered(
    Guard,
    "guard",
    click.option(
        "--epsilon",
        type=click.FloatRange(0, 1, min_open=True),
        default=8 / 255,
        show_default="8/255",
        help="How far FGSM, BIM and PGD go, as a share of the range of the data.",
    ),
    click.option(
        "--most", type=click.IntRange(1), default=1000, show_default=True, help="Inputs to fit on, and judge."
    ),
    click.option("--per-class", type=click.IntRange(1), metavar="N", help="Fit on so many inputs of each class."),
    click.option("--detector", type=click.Path(path_type=Path), help="Use this one on the test data; attack nothing."),
)
@force_option
@json_option
def detect(source: Source, out: Path | None, guard: Guard, force: bool, as_json: bool) -> None:
    """Tell attacked inputs of MODEL by the codes of its gates.

    FGSM, BIM, PGD and DeepFool attack held-out data, to which detectors are fitted, and test data, which judge them: a
    table of areas under ROC curves. With --out it writes detection.json, detection.html and detector.safetensors, a
    logistic regression on codes, which --detector reads.

    \b
    Examples:
      squeeze detect runs/model-decouple/model.safetensors --epsilon 0.1 --out runs/model-decouple
      squeeze detect runs/model-decouple/model.safetensors --detector runs/model-decouple/detector.safetensors
    """
    from squeeze_cli import explaining, gate_tables, tables

    if guard.detector is not None:
        flagged = explaining.screened(source, guard, guard.detector, out)
        click.echo(json.dumps(flagged.to_dict(), indent=1) if as_json else flagged)
        return
    found = explaining.defended(source, guard, out, force)
    if as_json:
        click.echo(json.dumps(found.to_dict(), indent=1))
    else:
        tables.show(*gate_tables.detection_tables(found))
