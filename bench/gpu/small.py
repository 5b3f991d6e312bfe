"""Every operator once, forward and backward, at sizes that fit no tile: what compute-sanitizer looks at.

python -m bench.gpu.small cuda
"""

import os
import sys
from contextlib import nullcontext

import torch

from bench.gpu.cases import Size, cases
from gee_kernels.testing import interpreted

SIZES = [Size(2, 1, 9, 3, 5), Size(3, 1, 17, 2, 7)]


def main(device: str) -> None:
    torch.manual_seed(0)
    if device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"  # triton is imported by the first launch
    with interpreted() if device == "cpu" else nullcontext():
        for case in cases(SIZES[:1] if device == "cpu" else SIZES, torch.float32, device):
            for call in case.run.values():
                call()
            print(f"{case.name}, {case.size}")
    if device != "cpu":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1])
