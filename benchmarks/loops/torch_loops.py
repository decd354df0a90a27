"""Hand-written PyTorch: modules, the fused Adam, `torch.compile` for those who wait for it, a CUDA graph on a GPU."""

import torch
from loop import Loop, timed
from problem import LEARNING_RATE
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class VAE(torch.nn.Module):
    """The negative ELBO of a batch, `(batch, channels, height, width)` or `(batch, pixels)`."""

    def __init__(self, problem):
        super().__init__()
        self.problem = problem
        for name, (kernel, _) in problem.weights().items():
            setattr(self, name, _layer(name, torch.from_numpy(kernel)))

    def encode(self, x):
        if self.problem.filters:
            for i in range(len(self.problem.filters)):
                x = torch.relu(getattr(self, f"down{i}")(x))
            hidden = x.flatten(1)
        else:
            hidden = torch.tanh(self.hidden(x))
        return self.mean(hidden), self.log_var(hidden)

    def decode(self, z):
        hidden = self.decoder(z)
        if not self.problem.filters:
            return self.logits(torch.tanh(hidden))
        height, width, channels = self.problem.smallest
        x = torch.relu(hidden).reshape(-1, channels, height, width)
        for i in range(len(self.problem.filters)):
            x = torch.relu(getattr(self, f"up{i}")(x))
        return self.logits(x)

    def forward(self, x):
        # Without its cache, which keeps casted weights and so does not go with a CUDA graph.
        half = self.problem.dtype == "bfloat16"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half, cache_enabled=False):
            mean, log_var = (part.float() for part in self.encode(x))
            z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
            logits = self.decode(z).float()
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * torch.sum(mean**2 + torch.expm1(log_var) - log_var)
        return (reconstruction + kl) / len(x)


def _layer(name, kernel):
    """A layer with this kernel, given as Keras keeps it, and a bias of zero.

    Keras pads a stride of 2 on the right and below only. Here it is padded on all sides, as one does in PyTorch, and
    the last row and column are completed by `output_padding`: the same sizes and the same work.
    """
    inputs, outputs = kernel.shape[-2:]
    if kernel.ndim == 2:
        layer, kernel = torch.nn.Linear(inputs, outputs), kernel.T
    elif name.startswith("up"):
        layer = torch.nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)
        kernel = kernel.permute(2, 3, 0, 1)
    else:
        layer = torch.nn.Conv2d(inputs, outputs, 3, stride=2 if name.startswith("down") else 1, padding=1)
        kernel = kernel.permute(3, 2, 0, 1)
    layer.weight.data, layer.bias.data = kernel.contiguous(), torch.zeros(outputs)
    return layer


def images(x):
    """NumPy's `(n, height, width, channels)` as a tensor on the device, `(n, channels, height, width)`.

    On a GPU channels stay last in memory, as its tensor cores want them.
    """
    x = torch.from_numpy(x).to(DEVICE)
    if x.ndim == 4:
        x = x.permute(0, 3, 1, 2)
    return x if DEVICE == "cuda" else x.contiguous()


def _start(problem, x):
    layout = torch.channels_last if DEVICE == "cuda" else torch.contiguous_format
    return VAE(problem).to(DEVICE, memory_format=layout), images(x)


def _adam(model, **options):
    return torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, eps=1e-7, fused=True, **options)


def _loop(problem, x, compile):
    model, data = _start(problem, x)
    optimizer, size = _adam(model), problem.batch_size
    loss_of = torch.compile(model) if compile else model

    def epoch():
        order, total = torch.randperm(len(data), device=DEVICE), 0.0
        for first in range(0, len(data) - size + 1, size):
            loss = loss_of(data[order[first : first + size]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / (len(data) // size)

    return Loop(timed(epoch), lambda: list(model.parameters()))


def eager(problem, x):
    """As the tutorials write it, with the fused Adam."""
    return _loop(problem, x, compile=False)


def compiled(problem, x):
    """The same, through `torch.compile`."""
    return _loop(problem, x, compile=True)


def graph(problem, x, count_flops=False):
    """One replay of a CUDA graph a step, its data on the device; where there is no CUDA, the same step without one."""
    model, data = _start(problem, x)
    optimizer, size = _adam(model, capturable=DEVICE == "cuda"), problem.batch_size
    rows, total = torch.arange(size, device=DEVICE), torch.zeros((), device=DEVICE)

    def step():
        optimizer.zero_grad()
        loss = model(data[rows])
        loss.backward()
        optimizer.step()
        total.add_(loss.detach())

    if DEVICE == "cuda":
        step = _captured(step)

    def epoch():
        order = torch.randperm(len(data), device=DEVICE)
        total.zero_()
        for first in range(0, len(data) - size + 1, size):
            rows.copy_(order[first : first + size])
            step()
        return float(total) / (len(data) // size)

    flops = _flops(model, data[:size]) if count_flops else None
    return Loop(timed(epoch), lambda: list(model.parameters()), flops)


def _captured(step):
    """The kernels of a step as one CUDA graph, after three steps beside the main stream, as the manual asks for."""
    torch.backends.cudnn.benchmark = True  # those three try its algorithms
    beside, main = torch.cuda.Stream(), torch.cuda.current_stream()
    beside.wait_stream(main)
    with torch.cuda.stream(beside):
        for _ in range(3):
            step()
    main.wait_stream(beside)
    recorded = torch.cuda.CUDAGraph()
    with torch.cuda.graph(recorded):
        step()
    return recorded.replay


def _flops(model, x):
    with FlopCounterMode(display=False) as counter:
        torch.autograd.grad(model(x), list(model.parameters()))  # leaves the gradients that a graph writes alone
    return counter.get_total_flops()
