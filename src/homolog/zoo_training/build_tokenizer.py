"""Train the zoo's tokenizer: byte-level BPE with 1,024 entries on the training text.

python -m homolog.zoo_training.build_tokenizer
"""

from __future__ import annotations

import json

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from homolog.zoo.catalog import TOKENIZER, training_texts

VOCABULARY = 1024
END = "<|endoftext|>"


def main() -> None:
    texts = training_texts()
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
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, unk_token=END
    )
    fast.save_pretrained(TOKENIZER)
    settings = TOKENIZER / "tokenizer_config.json"
    # a class name that older and newer transformers both know
    fields = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(fields, indent=2) + "\n")


if __name__ == "__main__":
    main()
