"""The values of training targets, for modules that do not import torch."""

UNKNOWN = 2  # 0: negative, 1: positive, UNKNOWN: ignored by the loss
