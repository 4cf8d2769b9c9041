"""Encoders, decoders, losses, tokenizer and the bundle, in plain torch."""
