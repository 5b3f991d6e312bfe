"""Builds `gee_kernels._C`, the C++ CPU kernels. All other metadata is in pyproject.toml.

The extension uses LibTorch's stable ABI and holds no Python code, so one build serves every
supported torch (2.11 and later) and Python (3.11 and later). Instruction sets beyond the
platform's baseline are compiled in by the sources themselves (csrc/isa.h) and chosen at run time.
"""

from pathlib import Path

from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent
SOURCES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.cpp"))
HEADERS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "csrc").glob("*.h"))

setup(
    ext_modules=[
        CppExtension(
            "gee_kernels._C",
            SOURCES,
            depends=HEADERS,
            py_limited_api=True,
            extra_compile_args=[
                "-O3",
                "-std=c++20",
                "-fvisibility=hidden",
                "-Wall",
                "-ffp-contract=off",  # every instruction set rounds alike; kernels ask for FMA
                "-DTORCH_TARGET_VERSION=0x020b000000000000",  # the stable ABI of torch 2.11
            ],
        )
    ],
    cmdclass={"build_ext": BuildExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
