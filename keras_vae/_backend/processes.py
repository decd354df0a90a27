"""Several processes that train one model, by torch.distributed, until Keras has its own way on PyTorch.

Each process has a share of the data and the whole model. After each step one sum over all processes gives every one
the gradient of the global batch, its logs, and the same averages of batch normalisation, so that the models stay equal
and callbacks decide alike. It begins when a process group is there: `torchrun` and `init_process_group` are PyTorch's.
"""

import numpy as np
import torch
from torch import distributed

from keras_vae.data import count


def is_active():
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def start(model, x):
    """Every process takes the values of the first, its optimizer's too."""
    if not model.built:
        raise ValueError("Several processes train a model that is built: call it on data, or build() it, before fit().")
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    if hasattr(x, "__len__"):
        _check_equal_shares(count(x), variables[0].value.device)
    with torch.no_grad():
        for variable in variables:
            distributed.broadcast(variable.value, src=0)


def _check_equal_shares(share, device):
    """One process that waits for another which has no batch left would wait for ever."""
    counts = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, torch.tensor(share, device=device))
    counts = [int(one) for one in counts]
    if len(set(counts)) > 1:
        raise ValueError(
            f"The processes have {counts} examples; each must have as many as the others, or one would wait for ever "
            "for a batch of another. Cut them to one length, x[rank::world_size][: len(x) // world_size]."
        )


def combine(count, averages, sums):
    """Lists of tensors over all processes: averaged with the weight `count` of this process, and summed.

    None stays None. The results have the shapes and dtypes of the arguments.
    """
    tensors = [tensor for tensor in (*averages, *sums) if tensor is not None]
    weights = [float(count)] * sum(tensor is not None for tensor in averages)
    weights += [1.0] * (len(tensors) - len(weights))
    parts = [tensor.float().reshape(-1) * weight for tensor, weight in zip(tensors, weights, strict=True)]
    flat = torch.cat([*parts, torch.tensor([float(count)], device=parts[0].device)])
    distributed.all_reduce(flat)
    total, start, results = flat[-1], 0, []
    for tensor in (*averages, *sums):
        if tensor is None:
            results.append(None)
            continue
        part = flat[start : start + tensor.numel()].reshape(tensor.shape)
        start += tensor.numel()
        results.append((part / total if len(results) < len(averages) else part).to(tensor.dtype))
    return results[: len(averages)], results[len(averages) :]


def seed(state):
    """A seed for this process from Keras's, of which neighbouring processes must not share one."""
    return int(np.random.SeedSequence([int(state.sum()) & 0xFFFFFFFF, distributed.get_rank()]).generate_state(1)[0])
