"""Networks: parameter counts, shapes, genes, dense twins, compilation, checkpoints."""

import pytest
import torch

from gee.models import create_model, list_models


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Exact counts for 10 and 100 classes; rounded they are the paper's Table 2 (in M, to the digits given).
COUNTS = [
    ("cifarnet", {"genes": 100}, 3_721_754, 3_814_004, "3.72", "3.81"),
    ("cifarnet", {"genes": 200}, 7_438_154, 7_530_404, "7.44", "7.53"),
    ("vgg16", {"genes": 100}, 2_514_522, 2_698_932, "2.51", "2.70"),
    ("vgg16", {"genes": 200, "tail_channels": 1024}, 6_887_050, 7_255_780, "6.89", "7.26"),
    ("resnet18", {"genes": 100}, 3_659_418, 3_682_548, "3.66", "3.68"),
    ("resnet18", {"genes": 250}, 8_723_118, 8_746_248, "8.72", "8.75"),
    ("resnet19", {"genes": 100}, 4_352_154, 4_375_284, "4.35", "4.38"),
    ("resnet19", {"genes": 200}, 8_414_154, 8_437_284, "8.41", "8.44"),
]


@pytest.mark.parametrize(("name", "options", "ten", "hundred", "paper_ten", "paper_hundred"), COUNTS)
def test_parameters_are_the_papers(name, options, ten, hundred, paper_ten, paper_hundred):
    with torch.device("meta"):
        counts = [parameters(create_model(name, num_classes=n, **options)) for n in (10, 100)]
    assert counts == [ten, hundred]
    assert [f"{count / 1e6:.2f}" for count in counts] == [paper_ten, paper_hundred]


def test_list_models():
    assert list_models() == ["cifarnet", "digitsnet", "resnet18", "resnet19", "resnet34", "vgg16"]
