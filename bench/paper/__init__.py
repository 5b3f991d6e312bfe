"""The paper's experiments as commands, and a page that sets our figures beside the paper's.

    python -m bench.paper.table4_ablations --preset cpu --data-dir data --seeds 3
    python -m bench.paper.report

Every command has `--help` and `--plan`. All of them keep their runs in one folder, so an interrupted command
continues where it stopped, and what one experiment has trained the others only measure.
"""

import os

# Before torch is imported: threads that wait shall sleep. Spinning, they slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
