"""The networks have the paper's sizes and cost, and fit the data they are built for."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from itop.models import ALIASES, MLP, MODELS, VGG, LeNet5, WideResNet, build_model, canonical_model_name
from itop.models.wide_resnet import WideBlock

CIFAR = (3, 32, 32)
FASHION = (1, 28, 28)
DIGITS = (1, 8, 8)
IMAGENET = (3, 224, 224)


def num_weights(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d))


def forward_flops(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Two per multiply-add of linear and convolution layers, counted while one image passes."""
    flops = 0

    def count(module: nn.Linear | nn.Conv2d, _: tuple[Tensor], output: Tensor) -> None:
        nonlocal flops
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        flops += 2 * module.weight.numel() * positions

    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    for hook in hooks:
        hook.remove()
    return flops


@pytest.mark.parametrize(
    ("name", "input_shape", "num_classes", "weights", "flops"),
    [
        ("mlp", CIFAR, 10, 3_675_136, "7.35e+06"),
        ("vgg-c", CIFAR, 10, 11_307_712, "6.22e+08"),
        ("resnet34", CIFAR, 100, 21_311_168, "2.319e+09"),
        ("resnet50", IMAGENET, 1000, 25_502_912, "8.178e+09"),
    ],
)
def test_the_papers_networks_have_its_weight_counts_and_flops(
    name: str, input_shape: tuple[int, int, int], num_classes: int, weights: int, flops: str
) -> None:
    model = build_model(name, num_classes=num_classes, input_shape=input_shape)
    assert num_weights(model) == weights
    digits = len(flops.split("e")[0]) - 2
    assert f"{forward_flops(model, input_shape):.{digits}e}" == flops


@pytest.mark.parametrize(
    ("name", "input_shape", "weights"),
    [
        ("lenet-300-100", FASHION, 784 * 300 + 300 * 100 + 100 * 10),
        ("lenet-5", FASHION, 25 * 20 + 25 * 20 * 50 + 800 * 500 + 500 * 10),
        ("alexnet-s", CIFAR, 3_745_824 + 256 * 1024 + 1024 * 1024 + 1024 * 10),
        ("alexnet-b", CIFAR, 3_745_824 + 256 * 2048 + 2048 * 2048 + 2048 * 10),
        ("vgg-d", CIFAR, 14_710_464 + 512 * 512 * 2 + 512 * 10),
        ("vgg-like", CIFAR, 14_710_464 + 512 * 512 + 512 * 10),
    ],
)
def test_the_reference_codes_networks_have_their_weight_counts(
    name: str, input_shape: tuple[int, int, int], weights: int
) -> None:
    assert num_weights(build_model(name, num_classes=10, input_shape=input_shape)) == weights


@pytest.mark.parametrize("name", ["wrn-28-2", "wrn-22-8", "wrn-22-2", "wrn-16-8", "wrn-16-10"])
def test_wide_resnets_have_the_depth_and_width_of_their_name(name: str) -> None:
    _, depth, width = name.split("-")
    model = build_model(name, num_classes=10, input_shape=CIFAR)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == int(depth)  # the name counts the three projections, not the linear layer
    assert next(m for m in model.modules() if isinstance(m, nn.Linear)).weight.shape == (10, 64 * int(width))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("input_shape", [DIGITS, FASHION, CIFAR], ids=["digits", "fashion", "cifar"])
def test_every_network_fits_small_images_or_says_how_large_they_must_be(
    name: str, input_shape: tuple[int, int, int]
) -> None:
    too_small = {"lenet-5": 16, "resnet50": 32}.get(name, 1)
    if input_shape[1] < too_small:
        with pytest.raises(ValueError, match=rf"needs images of at least {too_small} x {too_small} pixels, got"):
            build_model(name, num_classes=7, input_shape=input_shape)
        return
    model = build_model(name, num_classes=7, input_shape=input_shape)
    logits = model(torch.rand(2, *input_shape))
    assert logits.shape == (2, 7)
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("name", ["alexnet-s", "vgg-c", "vgg-d", "resnet18", "resnet50"])
def test_networks_take_images_that_are_not_square(name: str) -> None:
    model = build_model(name, num_classes=5, input_shape=(3, 48, 64)).eval()
    assert model(torch.rand(2, 3, 48, 64)).shape == (2, 5)


def test_resnet50_is_torchvisions() -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet50(num_classes=10).eval()
    ours = build_model("resnet50", num_classes=10, input_shape=(3, 64, 64)).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("name", ["mlp", "lenet-5", "alexnet-s", "vgg-c", "wrn-16-8", "resnet18"])
def test_the_same_torch_seed_gives_the_same_weights_and_a_deep_copy_the_same_outputs(name: str) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(build_model(name, num_classes=10, input_shape=FASHION).eval())
    models.append(copy.deepcopy(models[0]))
    images = torch.rand(2, *FASHION)
    with torch.no_grad():
        outputs = [model(images) for model in models]
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_activations_keep_their_scale_through_a_deep_mlp() -> None:
    torch.manual_seed(0)
    model = MLP([512] * 8, num_classes=512, input_shape=(1, 16, 32))
    spread = model(torch.randn(256, 512)).std().item()
    assert 0.35 < spread < 1.4  # ReLU halves the mean square, which the last layer's unit gain does not restore


@pytest.mark.parametrize("name", ["mlp", "wrn-16-8", "resnet18", "vgg-c"])
def test_networks_are_captured_whole_by_torch_compile(name: str) -> None:
    model = build_model(name, num_classes=10, input_shape=CIFAR).eval()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    images = torch.rand(2, *CIFAR)
    with torch.no_grad():
        assert torch.equal(compiled(images), model(images))


def test_mlp_layers_are_called_fc1_fc2_and_so_on() -> None:
    model = build_model("mlp", num_classes=10, input_shape=DIGITS)
    assert [name for name, _ in model.named_parameters() if name.endswith("weight")] == [
        "fc1.weight",
        "fc2.weight",
        "fc3.weight",
    ]


@pytest.mark.parametrize("name", ["mlp-3072-4000-1000-4000-10", "mlp:4000,1000,4000"])
def test_an_mlp_of_any_sizes_is_named_by_them(name: str) -> None:
    model = build_model(name, num_classes=10, input_shape=CIFAR)
    weights = [m.weight.shape for m in model.modules() if isinstance(m, nn.Linear)]
    assert weights == [(4000, 3072), (1000, 4000), (4000, 1000), (10, 4000)]


def test_sizes_of_an_mlp_that_do_not_fit_the_data_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"takes 784 inputs and 10 classes, the data has 3072 and 100; mlp:300,100 would"
    ):
        build_model("mlp-784-300-100-10", num_classes=100, input_shape=CIFAR)


@pytest.mark.parametrize("name", ["mlp:", "mlp:12,", "mlp-12-", "mlp:a"])
def test_malformed_sizes_of_an_mlp_are_refused_with_the_two_forms(name: str) -> None:
    with pytest.raises(ValueError, match=r"mlp:512,512 or mlp-784-512-10, got"):
        canonical_model_name(name)


def test_a_hidden_layer_of_no_neurons_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hidden_sizes must be at least 1 each, got \(0,\)"):
        build_model("mlp:0", num_classes=10, input_shape=CIFAR)


@pytest.mark.parametrize(
    ("name", "nearest"), [("resnet43", "resnet34"), ("vgg_cc", "vgg-c"), ("wrn-28-22", "wrn-28-2"), ("mpl", "mlp")]
)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown model '{name}'; did you mean '{nearest}'\? known: mlp, "):
        build_model(name, num_classes=10, input_shape=CIFAR)


def test_aliases_case_and_underscores_lead_to_the_same_network() -> None:
    assert canonical_model_name("VGG16") == "vgg-c"
    assert canonical_model_name("LeNet_300_100") == "lenet-300-100"
    assert set(ALIASES.values()) <= set(MODELS)
    assert not set(ALIASES) & set(MODELS)
    assert isinstance(build_model("vgg16", num_classes=10, input_shape=CIFAR), VGG)
    assert isinstance(build_model("lenet5", num_classes=10, input_shape=FASHION), LeNet5)


@pytest.mark.parametrize(
    ("num_classes", "input_shape", "message"),
    [
        (1, CIFAR, "num_classes must be at least 2, got 1"),
        (10, (3, 0, 32), r"input_shape must be \(channels, height, width\), each at least 1, got \(3, 0, 32\)"),
        (10, (32, 32), r"input_shape must be \(channels, height, width\), each at least 1, got \(32, 32\)"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_data_that_is_no_classification_of_images_is_refused(
    name: str, num_classes: int, input_shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, num_classes=num_classes, input_shape=input_shape)


def test_wide_resnets_of_impossible_depth_or_width_are_refused() -> None:
    with pytest.raises(ValueError, match=r"depth must be 10, 16, 22, 28, \.\.\., got 20"):
        WideResNet(20, 2, num_classes=10, input_shape=CIFAR)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        WideResNet(22, 0, num_classes=10, input_shape=CIFAR)


def test_a_wide_blocks_projection_sees_the_activated_input_and_an_identity_the_plain_one() -> None:
    features = torch.randn(2, 4, 6, 6)
    for out_channels in (4, 8):
        block = WideBlock(4, out_channels, stride=1, dropout=0.0).eval()
        nn.init.zeros_(block.conv2.weight)
        expected = features
        if block.shortcut is not None:
            expected = block.shortcut(torch.relu(block.bn1(features)))
        assert torch.equal(block(features), expected)
        assert (block.shortcut is None) == (out_channels == 4)
