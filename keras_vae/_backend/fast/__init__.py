"""What is there for speed alone, behind the names of `keras_vae._backend`: nobody else imports it.

`train_step` and `test_step` are the reference that each of these files must agree with; `benchmarks/train_step.py`
measures what they gain.
"""
