"""Optimizers whose hyper-parameters differ per member."""
