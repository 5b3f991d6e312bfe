"""W[o, i, h, w] = sum_{u,v} pre[i, u, h, w] * interaction[u, v] * post[o, v, h, w]     (GEE, Eqs. 1-3)"""

import torch
from torch import Tensor


def decode_weight(pre: Tensor, interaction: Tensor, post: Tensor) -> Tensor:
    # pre: [C_in, g, K, K], interaction: [g, g], post: [C_out, g, K, K] -> [C_out, C_in, K, K]
    return torch.einsum("iuhw,uv,ovhw->oihw", pre, interaction, post)
