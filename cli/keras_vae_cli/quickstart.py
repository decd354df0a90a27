"""`keras-vae quickstart`: `train` with settings that are known to work, then `export`."""

import argparse

from keras_vae_cli import export, options, train

# Chosen so that the pictures show digits and the whole takes well under two minutes on two cores.
SETTINGS = "--data digits --binarize threshold --hidden 256 --latent-dim 2 --batch-size 50 --learning-rate 2e-3"


def add_options(parser: argparse.ArgumentParser) -> None:
    fixed = argparse.ArgumentParser()
    train.add_options(fixed)
    parser.set_defaults(**vars(fixed.parse_args(SETTINGS.split())))
    parser.add_argument("--epochs", type=options.count, default=60, help="passes over the data (default 60)")
    parser.add_argument("--output", default="quickstart", help="folder to write (default quickstart)")
    options.add_shared(parser, "--overwrite")


def run(given: argparse.Namespace) -> None:
    """Trains on the embedded digits with settings known to work."""
    vae, test = train.train(given)
    following = [f"keras-vae sample {given.output}"]
    try:
        exporter = export.load_exporter()
    except ModuleNotFoundError as error:
        print(f"No ONNX files: {error}")
    else:
        export.write(exporter, vae, f"{given.output}/bundle", data=test)
        following.append(f"keras-vae serve {given.output}/bundle")
    print(f"\nNext: {', or '.join(following)}")
    print(f"or, in Python: keras.saving.load_model('{given.output}/model.keras')")
