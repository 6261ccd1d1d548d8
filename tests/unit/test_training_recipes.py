"""The recipes are the paper's set-ups."""

from __future__ import annotations

import pytest

from itop.training.recipes import DEFAULT_RECIPE, RECIPES


@pytest.mark.parametrize(
    ("name", "model", "data", "epochs", "rate"),
    [
        ("mlp-cifar10", "mlp", "cifar10", 200, 0.01),
        ("vgg16-cifar10", "vgg-c", "cifar10", 250, 0.1),
        ("resnet34-cifar100", "resnet34", "cifar100", 200, 0.1),
    ],
)
def test_small_image_recipes_share_the_papers_optimiser(
    name: str, model: str, data: str, epochs: int, rate: float
) -> None:
    config = RECIPES[name].config
    assert (config.model, config.data, config.epochs, config.learning_rate) == (model, data, epochs, rate)
    assert (config.optimizer, config.momentum, config.nesterov, config.weight_decay) == ("sgd", 0.9, True, 5e-4)
    assert (config.batch_size, config.decay_vectors, config.label_smoothing) == (128, True, 0.0)
    assert (config.lr_schedule, config.lr_milestones, config.lr_gamma) == ("milestones", (0.5, 0.75), 0.1)


def test_imagenet_warms_up_smooths_labels_and_spares_normalisation_from_decay() -> None:
    config = RECIPES["resnet50-imagenet"].config
    assert (config.model, config.epochs, config.batch_size, config.learning_rate) == ("resnet50", 100, 128, 0.1)
    assert (config.nesterov, config.weight_decay, config.decay_vectors) == (False, 1e-4, False)
    assert (config.label_smoothing, config.warmup_epochs) == (0.1, 5)
    schedule = config.schedule()
    factors = [schedule.factor(epoch / 100) for epoch in (0, 2.5, 5, 29.9, 30, 60, 90)]
    assert factors == pytest.approx([0, 0.5, 1, 1, 0.1, 0.01, 0.001])


def test_the_default_compares_dense_static_and_set_itop_over_three_seeds_without_a_download() -> None:
    recipe = RECIPES[DEFAULT_RECIPE]
    assert recipe.methods == ("dense", "static", "set-itop")
    assert (recipe.num_seeds, recipe.config.data, recipe.config.sparsity) == (3, "digits", 0.9)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_its_own_name_and_starts_with_its_method(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.config.recipe == name
    assert recipe.config.method in recipe.methods
    assert recipe.description
