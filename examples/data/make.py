"""Writes the files of this folder, but digits.csv, from data that Python packages ship.

pip install babel==2.18.0 pillow==13.0.0 scikit-learn==1.9.1 statsmodels==0.15.0
"""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

FOLDER = Path(__file__).parent
LANGUAGES = ["de", "fi", "fr", "hu", "pl"]
IMAGES_OF_A_DIGIT = 50


def write(name: str, header: list[str], rows: list[list[object]]) -> None:
    """Writes a CSV file."""
    with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def names() -> None:
    """Names of countries and languages in five languages, but for those that two of them share."""
    from babel import Locale

    found: list[tuple[str, str]] = []
    for language in LANGUAGES:
        locale = Locale(language)
        texts = {**locale.territories, **{f"language {k}": v for k, v in locale.languages.items()}}
        found += [(texts[key], language) for key in sorted(texts)]
    found = list(dict.fromkeys(found))
    shared = Counter(text for text, _ in found)
    write("names.csv", ["name", "language"], [[t, lang] for t, lang in found if shared[t] == 1])


def diabetes() -> None:
    """Ten measures of patients, and how far the disease had come a year later."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes(scaled=False)
    header = [*data.feature_names, "progression"]
    rows = [[*x, y] for x, y in zip(data.data.tolist(), data.target.tolist(), strict=True)]
    write("diabetes.csv", header, rows)


def sunspots() -> None:
    """Sunspots of each year."""
    from statsmodels.datasets import sunspots

    data = sunspots.load_pandas().data
    write("sunspots.csv", ["year", "sunspots"], [[int(y), n] for y, n in data.values.tolist()])


def digits() -> None:
    """The first images of each digit as PNG files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    data = load_digits()
    written: Counter[int] = Counter()
    for pixels, label in zip(data.images, data.target.tolist(), strict=True):
        if written[label] < IMAGES_OF_A_DIGIT:
            folder = FOLDER / "digits" / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            grey = (pixels * 255 / 16).round().astype("uint8")
            Image.fromarray(grey).save(folder / f"{written[label]:02}.png", optimize=True)
            written[label] += 1


names()
diabetes()
sunspots()
digits()
