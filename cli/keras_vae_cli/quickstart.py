"""`keras-vae quickstart`: `train` with settings that are known to work, then `export`."""

import argparse

from keras_vae_cli import export, train


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
    print(f"or, in Python: import keras, keras_vae; keras.saving.load_model('{given.output}/model.keras')")
