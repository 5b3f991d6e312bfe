"""Convolution with weights decoded from genes: y = conv2d(x, W(pre, interaction, post)).   (GEE, Eqs. 1-3)"""

import torch
from torch import Tensor

from gee_kernels.decode_weight.reference import decode_weight


def genetic_conv2d(
    x: Tensor,  # [N, C_in, H, W]
    pre: Tensor,  # [C_in, g, K, K]
    interaction: Tensor,  # [g, g]
    post: Tensor,  # [C_out, g, K, K]
    stride: int,
    padding: int,
) -> Tensor:  # [N, C_out, H', W']
    return torch.nn.functional.conv2d(x, decode_weight(pre, interaction, post), None, stride, padding)
