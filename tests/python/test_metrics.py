"""Metrics of the program are scikit-learn's."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program import REPOSITORY, Program
from sklearn import metrics

DATA = REPOSITORY / "examples" / "data"

JOB = """
[model]
layers = [{{ type = "linear", out = 16 }}, "relu", {{ type = "linear", out = {out} }}]
[data]
train = "{data}"
target = {target}
exclude = {exclude}
[train]
loss = "{loss}"
optimizer = {{ type = "adam", lr = 1e-2 }}
epochs = {epochs}
"""


def judged(
    outboard: Program, data: Path, **values: object
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The metrics of a model trained on a file, and what it says of each row."""
    defaults: dict[str, object] = {"exclude": "[]", "epochs": 2}
    text = JOB.format(**(defaults | values), data=data)
    (outboard.folder / "job.toml").write_text(text)
    _, model = outboard.train("job.toml")
    *rows, _ = outboard.run("predict", model, data)
    found: dict[str, Any] = outboard.run("evaluate", model, data)[-1]["metrics"]
    return found, rows


def column(data: Path, name: str) -> list[str]:
    """A column of a file."""
    with data.open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def close(ours: float, theirs: float) -> None:
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-9)


def check_classes(
    found: dict[str, Any], classes: list[str], truth: list[str], said: list[str]
) -> None:
    close(found["accuracy"], metrics.accuracy_score(truth, said))
    arguments = {"labels": classes, "zero_division": 0}
    each = metrics.precision_recall_fscore_support(truth, said, **arguments)
    macro = metrics.precision_recall_fscore_support(truth, said, average="macro", **arguments)
    for i, name in enumerate(["precision", "recall", "f1"]):
        close(found[name], macro[i])
        for c, row in enumerate(found["classes"]):
            close(row[name], each[i][c])
    assert [row["rows"] for row in found["classes"]] == each[3].tolist()
    assert found["confusion"] == metrics.confusion_matrix(truth, said, labels=classes).tolist()


def test_classes(outboard: Program) -> None:
    data = DATA / "digits.csv"
    found, rows = judged(outboard, data, out=10, target='"label"', loss="cross_entropy")
    truth = column(data, "label")
    classes = [str(digit) for digit in range(10)]
    # Not so good that the comparison would be one of ones.
    assert 0.5 < found["accuracy"] < 0.99
    check_classes(found, classes, truth, [row["prediction"] for row in rows])
    scores = np.array([[row["probabilities"][name] for name in classes] for row in rows])
    close(found["roc_auc"], metrics.roc_auc_score(truth, scores, multi_class="ovr", labels=classes))
    for c, name in enumerate(classes):
        is_class = np.array(truth) == name
        close(found["classes"][c]["roc_auc"], metrics.roc_auc_score(is_class, scores[:, c]))
    for k in [3, 5]:
        theirs = metrics.top_k_accuracy_score(truth, scores, k=k, labels=classes)
        close(found[f"top_{k}"], theirs)


def test_two_classes(outboard: Program) -> None:
    data = DATA / "diabetes.csv"
    found, rows = judged(
        outboard, data, out=1, target='"sex"', loss="bce_with_logits", exclude='["s1", "bp"]'
    )
    truth = column(data, "sex")
    assert found["accuracy"] < 0.95
    check_classes(found, ["1.0", "2.0"], truth, [row["prediction"] for row in rows])
    scores = [row["probabilities"]["2.0"] for row in rows]
    close(found["roc_auc"], metrics.roc_auc_score(np.array(truth) == "2.0", scores))


def test_labels(outboard: Program) -> None:
    data = outboard.folder / "labels.csv"
    random = np.random.default_rng(0)
    x = random.normal(size=(200, 3))
    y = (x[:, :2] + random.normal(size=(200, 2)) > 0).astype(int)
    rows = [[*a, *b] for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    data.write_text("\n".join(",".join(map(str, row)) for row in [list("abcpq"), *rows]))
    found, said = judged(outboard, data, out=2, target='["p", "q"]', loss="bce_with_logits")
    answers = np.array([[row["prediction"][name] for name in "pq"] for row in said])
    scores = np.array([[row["probabilities"][name] for name in "pq"] for row in said])
    close(found["accuracy"], (answers == y).mean())
    close(found["f1"], metrics.f1_score(y, answers, average="macro"))
    close(found["precision"], metrics.precision_score(y, answers, average="macro"))
    close(found["recall"], metrics.recall_score(y, answers, average="macro"))
    close(found["roc_auc"], metrics.roc_auc_score(y, scores, average="macro"))


def test_numbers(outboard: Program) -> None:
    data = DATA / "diabetes.csv"
    names = ["progression", "s6"]
    found, rows = judged(
        outboard, data, out=2, target='["progression", "s6"]', loss="mse", epochs=30
    )
    truth = np.array([column(data, name) for name in names], dtype=np.float32).T.astype(np.float64)
    said = np.array([[row["prediction"][name] for name in names] for row in rows])
    close(found["mse"], metrics.mean_squared_error(truth, said))
    close(found["mae"], metrics.mean_absolute_error(truth, said))
    close(found["r2"], metrics.r2_score(truth, said))
    for i, row in enumerate(found["targets"]):
        close(row["r2"], metrics.r2_score(truth[:, i], said[:, i]))
        close(row["mse"], metrics.mean_squared_error(truth[:, i], said[:, i]))
