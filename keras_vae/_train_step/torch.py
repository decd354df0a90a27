"""PyTorch: eager; gradients are left on the variables by `backward` and handed to Keras's optimizer."""

import keras
import torch


class BackendTrainer:
    def train_step(self, data):
        self.zero_grad()
        loss = self.step_loss(data, training=True)
        self.optimizer.scale_loss(loss).backward()
        variables = self.trainable_variables
        gradients = [variable.value.grad for variable in variables]
        with torch.no_grad():
            self.optimizer.apply(gradients, variables)
        return self.get_metrics_result()

    def test_step(self, data):
        with torch.no_grad():
            self.step_loss(data, training=False)
        return self.get_metrics_result()


def compiled(model, function):
    """`function(*arrays)` without gradients, on the device where Keras keeps the weights of `model`."""

    @torch.no_grad()
    def call(*arrays):
        return function(*(keras.ops.convert_to_tensor(array) for array in arrays))

    return call
