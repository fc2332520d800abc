"""Write the 1,797 digits of scikit-learn as PNG files of 8 × 8 pixels, by their label, in one .zip."""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits  # noqa: TID253

digits = load_digits()
images = np.round(255 * digits.images / 16).astype(np.uint8)  # light ink on dark paper, as in MNIST
with zipfile.ZipFile(Path(__file__).parent / "data" / "digits.zip", "w") as archive:
    for number, (image, label) in enumerate(zip(images, digits.target, strict=True)):
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG", optimize=True)
        # A fixed time: the same bytes whenever it is made.
        archive.writestr(zipfile.ZipInfo(f"{label}/{number:04d}.png", (2000, 1, 1, 0, 0, 0)), content.getvalue())
