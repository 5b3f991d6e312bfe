"""Peak memory of one contestant in a process of its own.

    python -m bench.peak_memory "spikingjelly" resnet19 train

prints one JSON line: the resident set before the first step, and its peak over three steps, in MiB. The
model, its weights and gradients are in the peak; the interpreter and the libraries are in `before_mib`.
"""

import argparse
import json
import resource
import subprocess
import sys

import psutil
import torch

from bench import contestants


def measure(
    contestant: str, network: str, mode: str, rate: float = 0.1, threads: int = 2
) -> dict[str, float]:
    """Run `main` in a fresh process; returns {"before_mib", "peak_mib", "step_mib"}."""
    command = [sys.executable, "-m", "bench.peak_memory", contestant, network, mode]
    command += ["--rate", str(rate), "--threads", str(threads)]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("contestant", choices=contestants.CONTESTANTS)
    parser.add_argument("network", nargs="?", default="resnet19")
    parser.add_argument("mode", nargs="?", choices=("train", "infer"), default="train")
    parser.add_argument("--rate", type=float, default=0.1, help="mean firing rate (default: 0.1)")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    # Calibrating the rate uses memory too: on one image, so that it stays below the step that is measured.
    images, labels = contestants.images_and_labels()
    model = contestants.build(options.contestant, options.network, options.rate, images[:1])
    before = psutil.Process().memory_info().rss
    for _ in range(3):
        if options.mode == "train":
            contestants.training_step(model, images, labels)
        else:
            with torch.inference_mode():
                model.eval()(images)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    mib = 2.0**20
    print(
        json.dumps(
            {
                "before_mib": round(before / mib, 1),
                "peak_mib": round(peak / mib, 1),
                "step_mib": round((peak - before) / mib, 1),
            }
        )
    )


if __name__ == "__main__":
    main()
