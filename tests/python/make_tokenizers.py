"""Writes tokenizers, texts and their tokens by the library `tokenizers`, for `crates/data`."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXTS = [
    "The quick brown fox jumps over the lazy dog.",
    "It's 12:30, isn't it? We'll see; they've said so -- 1,000 times!",
    "Straße, naïve café, ﬁne ½, ①②③, Å and Å",
    "日本語のテキスト and русский текст, עברית, 한국어",
    '👩‍👩‍👧 emoji 🎉🎉 and\ttabs, "quotes" and   many    blanks',
    "a",
    "supercalifragilisticexpialidocious " * 12,
]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def tokenizers() -> Iterator[tuple[str, Tokenizer]]:
    """One of each kind that is in common use, trained on the texts."""
    bert = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    bert.normalizer = normalizers.BertNormalizer()
    bert.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    bert.train_from_iterator(
        TEXTS,
        trainers.WordPieceTrainer(vocab_size=200, special_tokens=SPECIAL, show_progress=False),
    )
    ends = [(token, bert.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    bert.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]", ends
    )
    # What the file says of padding and truncation is not what the job says.
    bert.enable_padding(length=64)
    bert.enable_truncation(3)
    yield "bert", bert

    gpt = Tokenizer(models.BPE())
    gpt.normalizer = normalizers.NFC()
    gpt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    gpt.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    gpt.train_from_iterator(TEXTS, trainer)
    yield "gpt", gpt

    t5 = Tokenizer(models.Unigram())
    t5.normalizer = normalizers.NFKC()
    t5.pre_tokenizer = pre_tokenizers.Metaspace()
    t5.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(
            vocab_size=150, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
        ),
    )
    yield "t5", t5


def main(folder: Path) -> None:
    """Prints the cases as JSON."""
    texts = folder / "texts.csv"
    with texts.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["y", "said"])
        rows.writerows([number % 2, text] for number, text in enumerate(TEXTS))
    cases = []
    for name, tokenizer in tokenizers():
        path = folder / f"{name}.json"
        tokenizer.save(str(path))
        tokenizer.no_padding()
        for length in (4, 16, 512):
            tokenizer.enable_truncation(length)
            tokens = [tokenizer.encode(text.strip()).ids for text in TEXTS]
            cases.append(
                {"tokenizer": str(path), "texts": str(texts), "length": length, "tokens": tokens}
            )
    json.dump(cases, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
