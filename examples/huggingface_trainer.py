"""Hugging Face's Trainer on a small GPT-2 over the text of this repository: one import, one callback."""

import argparse

import torch
from language_model import repository_text
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from itop.integrations.huggingface import SparseCallback
from itop.methods import METHODS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", default="runs/huggingface")
    parser.add_argument("--resume", action="store_true")
    options = parser.parse_args()

    text = repository_text()
    windows = [{"input_ids": part, "labels": part} for part in text[: len(text) // 64 * 64].view(-1, 64)]
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_positions=64, n_embd=64, n_layer=2, n_head=2))
    arguments = TrainingArguments(
        options.out,
        max_steps=options.steps,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        save_steps=10,
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
    )
    sparse = SparseCallback(METHODS["rigl"](update_every=5), sparsity=0.8, include=["transformer.h.*.weight"])
    trainer = Trainer(model, arguments, train_dataset=windows, callbacks=[sparse])
    trainer.train(resume_from_checkpoint=options.resume)
    print(f"sparsity {sparse.engine.sparsity:.3f} after {sparse.engine.num_updates} updates")


if __name__ == "__main__":
    main()
