"""The `keras-vae` command: a file for each verb. Importing this package imports nothing, not even Keras."""
