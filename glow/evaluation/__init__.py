"""Figures and pictures of flows; knows flows and tensors, no Lightning."""
