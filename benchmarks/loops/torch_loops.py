"""Hand-written PyTorch: modules, the fused Adam, and `torch.compile` for those who wait for it."""

import problem
import torch
from torch.nn import functional


class VAE(torch.nn.Module):
    def __init__(self):
        super().__init__()
        for name, (kernel, _) in problem.weights().items():
            layer = torch.nn.Linear(*kernel.shape)
            layer.weight.data, layer.bias.data = torch.from_numpy(kernel.T.copy()), torch.zeros(kernel.shape[1])
            setattr(self, name, layer)

    def forward(self, x):
        hidden = torch.tanh(self.hidden(x))
        mean, log_var = self.mean(hidden), self.log_var(hidden)
        z = mean + torch.exp(0.5 * log_var) * torch.randn_like(mean)
        logits = self.logits(torch.tanh(self.decoder(z)))
        reconstruction = functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = 0.5 * torch.sum(mean**2 + torch.expm1(log_var) - log_var)
        return (reconstruction + kl) / len(x)


def _loop(x, batch_size, compile):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, data = VAE().to(device), torch.from_numpy(x).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=problem.LEARNING_RATE, eps=1e-7, fused=True)
    loss_of = torch.compile(model) if compile else model

    def epoch():
        order, total = torch.randperm(len(data), device=device), 0.0
        for first in range(0, len(data) - batch_size + 1, batch_size):
            loss = loss_of(data[order[first : first + batch_size]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return float(total) / (len(data) // batch_size)

    return epoch


def eager(x, batch_size):
    """As the tutorials write it, with the fused Adam."""
    return _loop(x, batch_size, compile=False)


def compiled(x, batch_size):
    """The same, through `torch.compile`."""
    return _loop(x, batch_size, compile=True)
