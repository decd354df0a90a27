"""A step as a function of values: what JAX demands, and what makes a list of operations out of PyTorch's."""

import keras


def loss_and_state(model, trainable, non_trainable, metrics, data, training):
    """`model.step_loss` with variables that have the given values, which it leaves as they are.

    Returns:
        The loss, what the trainable variables became (the given values but where a layer assigns to its weights), the
        non-trainable ones and those of the metrics, and the logs. The non-trainable ones hold the seed generator's
        state (lose it and each step draws the same noise) and the step counter of the schedules.
    """
    mapping = [
        *zip(model.trainable_variables, trainable, strict=True),
        *zip(model.non_trainable_variables, non_trainable, strict=True),
        *zip(model.metrics_variables, metrics, strict=True),
    ]
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        loss = model.step_loss(data, training=training)
        logs = model.get_metrics_result()
    trainable = [scope.get_current_value(variable) for variable in model.trainable_variables]
    non_trainable = [scope.get_current_value(variable) for variable in model.non_trainable_variables]
    metrics = [scope.get_current_value(variable) for variable in model.metrics_variables]
    return loss, trainable, non_trainable, metrics, logs
