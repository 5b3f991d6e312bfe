"""Training steps of whole networks: gee, the same network unfused, and the dense twin."""

from collections.abc import Callable, Iterator

import torch

from gee.models import create_model

Step = Callable[[], torch.Tensor]


def contestants(dry: bool) -> Iterator[tuple[str, int, Callable[[str], Step]]]:
    """(name, batch, build): build(device) makes the network and returns its training step."""
    name, genes, batch, options = "resnet19", 100, 128, {}
    if dry:
        name, genes, batch, options = "digitsnet", 3, 1, {"in_channels": 1, "time_steps": 2, "width": 0.125}
    variants = {
        "gee": {"genes": genes},
        "gee as a CUDA graph": {"genes": genes, "graph": True},
        "gee, unfused (PyTorch)": {"genes": genes, "backend": "reference"},
        "dense twin, fused neurons": {"genes": None},
        "dense twin, unfused (PyTorch)": {"genes": None, "backend": "reference"},
    }
    for label, variant in variants.items():

        def build(device: str, variant=variant) -> Step:
            return _training_step(name, batch, device, dry, **options, **variant)

        yield f"{name}, {label}", batch, build


def _training_step(name: str, batch: int, device: str, dry: bool, graph: bool = False, **options) -> Step:
    torch.manual_seed(0)
    model = create_model(name, **options).to(device, memory_format=torch.channels_last)
    side = 8 if dry else 32
    images = torch.rand(batch, options.get("in_channels", 3), side, side, device=device)
    labels = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, capturable=graph and device == "cuda")

    def step() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=not dry):
            loss = torch.nn.functional.cross_entropy(model(images).float(), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _captured(step) if graph and device == "cuda" else step


def _captured(step: Step) -> Step:
    """`step` recorded once and replayed; what it returns is overwritten by the next replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()

    def replay() -> torch.Tensor:
        graph.replay()
        return loss

    return replay
