"""Train the zoo's tokenizer: byte-level BPE with 1,024 entries on the training text.

python -m homolog.zoo.build_tokenizer
"""

from __future__ import annotations

import json
import lzma

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from homolog.zoo.catalog import TOKENIZER, TRAIN_TEXT

VOCABULARY = 1024
END = "<|endoftext|>"


def main() -> None:
    texts = [json.loads(line)["text"] for line in lzma.open(TRAIN_TEXT, "rt", encoding="utf-8")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END
    ).save_pretrained(TOKENIZER)


if __name__ == "__main__":
    main()
