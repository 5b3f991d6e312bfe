"""`python -m gee.models`: the networks, and one of them layer by layer."""

import argparse

from gee.models.registry import describe_model, list_models
from gee.models.summary import summarise, table

EPILOG = """
A population p of C neurons owns one encoding X_p of C x g x 3 x 3 numbers (g genes for each channel and tap);
one interaction G of g x g numbers is shared by the whole network. A 3x3 convolution from p to q has the
weight W[o, i] = X_p[i]^T G X_q[o] at each tap, which is decoded when needed and never learned or stored.
So a wide layer costs parameters in proportion to its channels, not to their product.

columns:
  encoding X_p   shape of the population's encoding
  weights W      synaptic weights in use: decoded from genes, or learned where there is no encoding before
  parameters     learned numbers: encoding, norm, and the weights that are not decoded
  dense twin     learned numbers of the same layer with an ordinary weight
  compression    dense twin / parameters; a layer's own may be below 1, since its encoding also serves
                 the convolution behind it

examples:
  python -m gee.models                                     the names
  python -m gee.models resnet19 --genes 100                4,352,154 parameters, the paper's 4.35 M
  python -m gee.models vgg16 --genes 200 --tail-channels 1024
  python -m gee.models resnet34 --genes 150 --num-classes 1000
"""


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gee.models",
        description="List the networks, or show one layer by layer: encodings, decoded weights, parameters, "
        "and what its dense twin would learn.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "name", nargs="?", choices=list_models(), metavar="NAME", help="the network; none: list"
    )
    parser.add_argument("--genes", type=int, default=100, metavar="G", help="number of genes g (100)")
    parser.add_argument("--num-classes", type=int, default=10, metavar="N", help="size of the output (10)")
    parser.add_argument("--in-channels", type=int, default=3, metavar="C", help="channels of the image (3)")
    parser.add_argument("--width", type=float, default=1.0, metavar="W", help="multiplies all channels (1.0)")
    parser.add_argument(
        "--tail-channels", type=int, metavar="C", help="vgg16: channels of the last two populations (512)"
    )
    options = {key: value for key, value in vars(parser.parse_args(args)).items() if value is not None}
    name = options.pop("name", None)
    if name is None:
        for known in list_models():
            print(f"{known:<12}{describe_model(known)}")
        return
    try:
        rows = summarise(name, **options)
    except (TypeError, ValueError) as error:
        parser.error(str(error))
    print(table(rows))


if __name__ == "__main__":
    main()
