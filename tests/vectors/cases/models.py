"""Models for gradient cases: every layer that is more than a function of single elements."""

from __future__ import annotations

from outboard_worker.specs import Spec


def of(kind: str, **options: object) -> Spec:
    return {"type": kind, **options}


def linear(out: int) -> Spec:
    return of("linear", out=out)


RELU, TANH, FLATTEN = of("relu"), of("tanh"), of("flatten")
HEAD = [FLATTEN, linear(4)]

WINDOWS: list[tuple[str, tuple[int, ...], list[Spec]]] = [
    (
        "conv2d",
        (5, 2, 7, 6),
        [
            of("conv2d", out=4, kernel=3, padding=1),
            TANH,
            of("conv2d", out=3, kernel=[2, 3], stride=[2, 1], padding=[1, 0]),
            *HEAD,
        ],
    ),
    (
        "conv2d_groups",
        (4, 4, 9, 8),
        [
            of("conv2d", out=6, kernel=3, dilation=2, groups=2, padding=2),
            RELU,
            of("conv2d", out=4, kernel=[3, 1], stride=2, bias=False),
            of("conv2d", out=5, kernel=1),
            *HEAD,
        ],
    ),
    (
        "conv2d_max_pool2d",
        (9, 1, 13, 12),
        [
            of("conv2d", out=6, kernel=3, padding=1),
            RELU,
            of("max_pool2d", kernel=2),
            of("conv2d", out=5, kernel=3),
            of("max_pool2d", kernel=[2, 3], stride=[1, 2]),
            *HEAD,
        ],
    ),
    (
        "conv1d",
        (6, 3, 20),
        [
            of("conv1d", out=5, kernel=5, stride=2, padding=2),
            RELU,
            of("max_pool1d", kernel=2),
            of("conv1d", out=6, kernel=3, dilation=2, padding=3, groups=1),
            of("gelu"),
            of("avg_pool1d", kernel=3, stride=2, padding=1),
            *HEAD,
        ],
    ),
    (
        "pool2d",
        (4, 2, 9, 8),
        [
            of("conv2d", out=3, kernel=1),
            TANH,
            of("max_pool2d", kernel=3, stride=2, padding=1),
            of("avg_pool2d", kernel=[2, 3], stride=1, padding=1),
            of("adaptive_avg_pool2d", out=[2, 3]),
            *HEAD,
        ],
    ),
    (
        "pool1d",
        (7, 2, 15),
        [
            of("conv1d", out=4, kernel=1),
            TANH,
            of("max_pool1d", kernel=3, stride=1, padding=1),
            of("adaptive_avg_pool1d", out=4),
            *HEAD,
        ],
    ),
]

NORMS: list[tuple[str, tuple[int, ...], list[Spec]]] = [
    # A bias before a batch norm would have a gradient of 0.
    (
        "batch_norm1d",
        (16, 12),
        [of("linear", out=8, bias=False), of("batch_norm1d"), RELU, linear(4)],
    ),
    (
        "batch_norm1d_length",
        (6, 3, 10),
        [
            of("conv1d", out=4, kernel=3, bias=False),
            of("batch_norm1d", momentum=0.3, eps=1e-3),
            TANH,
            *HEAD,
        ],
    ),
    (
        "batch_norm2d",
        (6, 2, 6, 5),
        [
            of("conv2d", out=4, kernel=3, bias=False),
            of("batch_norm2d"),
            RELU,
            of("conv2d", out=5, kernel=2, bias=False),
            of("batch_norm2d", momentum=1.0),
            of("adaptive_avg_pool2d", out=1),
            *HEAD,
        ],
    ),
    ("layer_norm", (10, 5, 6), [linear(21), of("layer_norm"), TANH, *HEAD]),
    (
        "residual",
        (12, 8),
        [
            linear(10),
            of(
                "residual",
                layers=[
                    of("layer_norm", eps=1e-4),
                    linear(16),
                    of("gelu"),
                    of("dropout", p=0.25),
                    linear(10),
                    of("residual", layers=[of("dropout", p=0.1), TANH]),
                ],
            ),
            of("dropout", p=0.2),
            linear(4),
        ],
    ),
    (
        "residual_conv2d",
        (5, 2, 6, 6),
        [
            of("conv2d", out=4, kernel=3, padding=1),
            of(
                "residual",
                layers=[
                    of("conv2d", out=4, kernel=3, padding=1, bias=False),
                    of("batch_norm2d"),
                    RELU,
                    of("conv2d", out=4, kernel=3, padding=1),
                ],
            ),
            RELU,
            of("adaptive_avg_pool2d", out=2),
            *HEAD,
        ],
    ),
]

TOKENS = of("embedding", tokens=11, out=12, padding_index=0)
POSITIONS = of("positional_embedding")
MEAN, LAST = of("mean_pool"), of("last_pool")


def encoder(**options: object) -> Spec:
    return of("transformer_encoder", heads=3, ff=20, **{"dropout": 0.0, **options})


SEQUENCES: list[tuple[str, tuple[int, ...], list[Spec]]] = [
    (
        "embedding",
        (9, 5),
        [of("embedding", tokens=7, out=6), POSITIONS, TANH, *HEAD],
    ),
    ("mean_pool", (9, 7), [TOKENS, POSITIONS, TANH, MEAN, linear(4)]),
    ("last_pool", (9, 7), [TOKENS, POSITIONS, linear(6), TANH, LAST, linear(4)]),
    (
        "embedding_flatten",
        (6, 4),
        [of("embedding", tokens=5, out=3, padding_index=2), *HEAD],
    ),
    ("transformer_encoder", (9, 7), [TOKENS, POSITIONS, encoder(), encoder(), MEAN, linear(4)]),
    (
        "transformer_encoder_norm_first",
        (9, 7),
        [TOKENS, encoder(norm_first=True, activation="gelu"), LAST, linear(4)],
    ),
    (
        "transformer_encoder_dropout",
        (6, 5, 6),
        [
            linear(12),
            encoder(dropout=0.2, activation="gelu"),
            encoder(dropout=0.1, norm_first=True),
            MEAN,
            linear(4),
        ],
    ),
    (
        "transformer_encoder_padding_dropout",
        (9, 6),
        [TOKENS, of("residual", layers=[of("dropout", p=0.1), encoder(dropout=0.3)]), *HEAD],
    ),
    (
        "transformer_encoder_long",
        (3, 37, 6),
        [linear(20), of("transformer_encoder", heads=1, ff=9, dropout=0.0), MEAN, linear(4)],
    ),
    ("transformer_encoder_first", (4, 5, 12), [encoder(norm_first=True), *HEAD]),
    ("lstm", (5, 6, 4), [linear(5), of("lstm", out=7), of("lstm", out=6), LAST, linear(4)]),
    ("lstm_padding", (9, 7), [TOKENS, of("lstm", out=9), LAST, linear(4)]),
    ("lstm_no_bias", (37, 4, 3), [of("lstm", out=5, bias=False), MEAN, linear(4)]),
    ("gru", (5, 6, 4), [linear(5), of("gru", out=7), of("gru", out=6), LAST, linear(4)]),
    ("gru_padding", (9, 7), [TOKENS, of("gru", out=9), MEAN, linear(4)]),
    ("gru_no_bias", (37, 4, 3), [of("gru", out=5, bias=False), LAST, linear(4)]),
]

MODELS = WINDOWS + NORMS + SEQUENCES
