"""The training recipe: `python -m examples.classifiers.train cifar10_vgg16 data/cifar10 vgg16.safetensors`."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors.torch import save_file

import squeeze
from examples.classifiers import task

CIFAR = squeeze.FineTune(epochs=200, lr=0.1, weight_decay=5e-4, schedule="step", warmup=400, distill=0.0, name="train")
MNIST = squeeze.FineTune(epochs=20, lr=0.05, weight_decay=5e-4, schedule="cosine", distill=0.0, name="train")

RECIPES: dict[str, tuple[Callable[[str], task.Classification], squeeze.FineTune]] = {
    "cifar10_resnet20": (task.cifar10_resnet20, CIFAR),
    "cifar10_resnet56": (task.cifar10_resnet56, CIFAR),
    "cifar10_resnet110": (task.cifar10_resnet110, CIFAR),
    "cifar10_vgg16": (task.cifar10_vgg16, CIFAR),
    "cifar10_densenet40": (task.cifar10_densenet40, CIFAR),
    "cifar10_googlenet": (task.cifar10_googlenet, CIFAR),
    "mnist_lenet": (task.mnist_lenet, MNIST),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train one network from scratch with squeeze's own loop, and write its weights."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("task", choices=RECIPES)
    parser.add_argument("data", help="folder of the data set")
    parser.add_argument("out", type=Path, help="file of the weights, .safetensors; checkpoints go beside it")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on where an interrupted run stopped")
    given = parser.parse_args(arguments)
    make, recipe = RECIPES[given.task]
    if given.epochs is not None:
        recipe = squeeze.FineTune(**{**vars(recipe), "epochs": given.epochs})
    made = make(given.data)
    run = squeeze.Run(folder=given.out.with_suffix(""), seed=given.seed, resume=given.resume, quiet=False)
    model, _ = squeeze.finetune(made.build(), None, made, recipe, (), run)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), given.out)
    print(f"{given.out}: {made.evaluate(model, 'test')}")


if __name__ == "__main__":
    main()
