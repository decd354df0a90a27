"""A step as a function of values: what JAX demands, and what lets PyTorch trace a step."""

import keras


def stateless_loss(model, trainable, non_trainable, metrics, batch, noise, training):
    """`model.step_loss` with variables that have the given values, which it leaves as they are.

    Args:
        model: A `VAE`.
        trainable, non_trainable, metrics: Values of its variables.
        batch: A `Batch`.
        noise: The step's noise; None draws it from the model's seed generator, which is among the variables.
        training: Whether this is a training step.

    Returns:
        The loss; what the trainable variables became (the given values unless a layer assigns to its weights); what the
        non-trainable ones became, which hold the state of the seed generator (without it each step draws the same
        noise) and the step counter of the schedules; what those of the metrics became; the logs.
    """
    variables = [*model.trainable_variables, *model.non_trainable_variables, *model.metrics_variables]
    mapping = zip(variables, [*trainable, *non_trainable, *metrics], strict=True)
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        noise = model.noise(batch.size) if noise is None else noise
        loss = model.step_loss(batch, noise, training)
        logs = model.get_metrics_result()
    groups = (model.trainable_variables, model.non_trainable_variables, model.metrics_variables)
    values = ([scope.get_current_value(variable) for variable in group] for group in groups)
    return loss, *values, logs
