"""Other trainers, each module imported by who needs it: ``huggingface``, ``accelerate``, ``lightning``.

Loops that call ``optimizer.step()`` themselves, timm's training script among them, need nothing from here.
"""
