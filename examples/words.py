"""Words, letter by letter: a decoder that is told the letters before each, beside one that only knows z.

    KERAS_BACKEND=jax python examples/words.py [--epochs 30]

The data are the words of Python's own manual, which every Python carries. A word is a sequence of codes and ends in a
full stop; what comes after it is NaN, and is summed out. Printed are the held-out bound in nats per word, words that
each model draws, a path between two words, and how the second goes on from the beginning of one.

Reference: Bowman et al. 2016, Generating Sentences from a Continuous Space, arXiv:1511.06349.
"""

import argparse
import re
from pydoc_data.topics import topics

import keras
import numpy as np

import keras_vae
from keras_vae import networks, sequences

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--epochs", type=int, default=30)
parser.add_argument("--words", type=int, help="number of words; all of them if it is not given")
options = parser.parse_args()

LETTERS = "abcdefghijklmnopqrstuvwxyz."
END = LETTERS.index(".")


def to_words(x):
    return ["".join(LETTERS[int(code)] for code in row) for row in sequences.unpad(x, end=END)]


words = sorted(set(re.findall(r"\b[a-z]{3,11}\b", " ".join(topics.values()))))
x = sequences.pad([[LETTERS.index(letter) for letter in f"{word}."] for word in words], steps=12)
np.random.default_rng(0).shuffle(x)
x = x[: options.words]
train, test = np.split(x, [len(x) * 7 // 8])

likelihood = keras_vae.Categorical(num_classes=len(LETTERS))
for autoregressive in (False, True):
    keras.utils.set_random_seed(0)
    encoder, decoder = networks.recurrent(
        (12,), 16, (128,), likelihood=likelihood, show_missing=True, autoregressive=autoregressive
    )
    # A decoder that knows the letters before could do without z: free bits keep it in use.
    vae = keras_vae.VAE(
        encoder, decoder, likelihood, objective=keras_vae.ELBO(free_bits=0.25), allow_missing=True, seed=0
    )
    vae.compile(keras_vae.FusedAdam(3e-3))
    stop = keras.callbacks.EarlyStopping("val_negative_elbo", patience=3, restore_best_weights=True)
    vae.fit(train, batch_size=64, epochs=options.epochs, validation_data=(test,), callbacks=[stop], verbose=0)
    terms = vae.evaluate(test, verbose=0, return_dict=True)
    print(
        f"{keras.backend.backend()}, {'letter after letter' if autoregressive else 'all letters at once'}: test "
        f"negative ELBO {terms['negative_elbo']:.2f} nats a word, of which KL {terms['kl']:.2f}"
    )
    print("  drawn:", *to_words(vae.sample(10, seed=0)))
    print("  a path:", *to_words(vae.interpolate(test[0], test[1], steps=6)))

beginning = np.full((1, 12), np.nan, "float32")
beginning[0, :3] = [LETTERS.index(letter) for letter in "con"]
print("  con...:", *to_words(vae.impute(beginning, draws=8, seed=0)[:, 0]))
